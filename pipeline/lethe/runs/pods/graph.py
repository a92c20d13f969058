"""What of `dvc.yaml` decides where a stage's files come from and go to, when it runs in a pod."""

from collections.abc import Sequence
from pathlib import Path

from lethe.core.errors import NotFound
from lethe.stores.dvc import graph
from lethe.stores.dvc.git import LOCK

PIPELINE = Path("dvc.yaml")


class Pipeline:
    """The pipeline of a workspace, asked about files."""

    def __init__(self, root: Path) -> None:
        self._stages = graph.read_stages(root / PIPELINE)
        pipeline = graph.compile_pipeline(self._stages)
        self.names = [stage["name"] for stage in pipeline["stages"]]
        self._after = {stage["name"]: stage["after"] for stage in pipeline["stages"]}
        self._scratch = pipeline["scratch"]
        self.with_keys = [
            name
            for name in self.names
            if any(
                graph.meets(path, kept)
                for path in [*self._stages[name].get("deps", ()), *self.made(name)]
                for kept in self._scratch
            )
        ]

    def refuse_unknown(self, stage: str) -> None:
        if stage not in self.names:
            raise NotFound(f"dvc.yaml has no stage {stage!r}; it has {', '.join(self.names)}.")

    def up_to(self, targets: Sequence[str]) -> list[str]:
        """Stages in their order: these and all that they need; every one where there is none."""
        needed = set(targets or self.names)
        for name in reversed(self.names):
            if name in needed:
                needed.update(self._after[name])
        return [name for name in self.names if name in needed]

    def made(self, stage: str) -> list[str]:
        return graph.outputs(self._stages[stage])

    def cached(self, stage: str) -> list[str]:
        """The outputs that DVC keeps: those that are not declared `cache: false`."""
        return [
            path
            for kind in ("outs", "metrics", "plots")
            for entry in self._stages[stage].get(kind, ())
            for path, options in ({entry: {}} if isinstance(entry, str) else entry).items()
            if options.get("cache", True)
        ]

    def all_cached(self) -> list[str]:
        return [path for name in self.names for path in self.cached(name)]

    def inputs(self, stage: str) -> tuple[list[str], list[str]]:
        """(on DVC's remote, in the shared folder alone) of what the stage reads."""
        needs = self._stages[stage].get("deps", ())
        read = {
            path
            for earlier in self._after[stage]
            for path in self.made(earlier)
            if any(graph.meets(need, path) for need in needs)
        }
        return sorted(read & set(self.all_cached())), sorted(read & set(self._scratch))

    def reports(self) -> list[str]:
        """What a run's ref carries beside `dvc.lock`: uncached reports and plots, which are counts
        and curves, and nothing of the scratch."""
        return [
            path
            for name in self.names
            for path in self.made(name)
            if path not in self.cached(name)
            and not any(graph.meets(path, kept) for kept in self._scratch)
        ]


def report_files(root: Path, pipeline: Pipeline) -> dict[str, bytes]:
    """What the ref is to carry of a workspace as it stands."""
    paths = [LOCK.as_posix(), *pipeline.reports()]
    return {path: (root / path).read_bytes() for path in paths if (root / path).is_file()}
