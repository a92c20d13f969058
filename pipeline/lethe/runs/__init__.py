"""One run of the pipeline: in the workspace, in a git worktree, in pods."""
