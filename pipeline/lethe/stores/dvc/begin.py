"""A new workspace: git, DVC, and the pipeline that every workspace has."""

from collections.abc import Mapping
from pathlib import Path

from lethe.core.errors import ParamsInvalid
from lethe.core.files import write_whole
from lethe.stores.dvc.git import git
from lethe.stores.dvc.git import ignored as ignored_by_git

_TEMPLATE = Path(__file__).with_name("template")
_IGNORED = Path(".gitignore")
_FILES = {  # of a workspace, and what each is made from
    Path("dvc.yaml"): "pipeline.yaml",  # DVC takes every dvc.yaml for a pipeline
    Path(".dvcignore"): "dvcignore",
    Path(".dvc/config"): "config",
    Path(".dvc/.gitignore"): "dvc-gitignore",
    Path(".dvc/plots/page.html"): "plots.html",
}


def _templates() -> dict[Path, bytes]:
    return {path: (_TEMPLATE / name).read_bytes() for path, name in _FILES.items()}


def refuse_other_pipeline(root: Path, made: Mapping[Path, bytes]) -> None:
    """Looks before anything is written.

    Args:
        made: what else will be written: path and content.

    Raises:
        ParamsInvalid: the folder has a pipeline or a DVC of its own.
    """
    if (root / _IGNORED).exists() and not (root / _IGNORED).is_file():
        raise ParamsInvalid(f"{_IGNORED} is no file. Move it away first.")
    for path, content in {**_templates(), **made}.items():
        place = root / path
        # What is as it would be written is of an `init` that did not end.
        if place.exists() and not (place.is_file() and place.read_bytes() == content):
            raise ParamsInvalid(
                f"{path} is there already. Begin in an empty folder, or move it away first."
            )


def begin(root: Path, *, ignored: list[str], files: list[str]) -> bool:
    """Writes what DVC and git need; whether the folder was made a git repository for it.

    Args:
        ignored: what git must leave out beside what the pipeline makes: the source's own files.
        files: those files, each of which must be left out in the end.

    Raises:
        ParamsInvalid: git is not installed, or keeps one of the files.
    """
    place = root / _IGNORED
    own = place.read_bytes() if place.exists() else b""
    new = git(root, "rev-parse", "--is-inside-work-tree") is None
    if new and git(root, "init", "--quiet") is None:
        raise ParamsInvalid("git cannot make a repository here. Install git, or run `git init`.")
    wanted = [*(_TEMPLATE / "gitignore").read_text(encoding="utf-8").splitlines(), *ignored]
    there = own.splitlines()
    lines = [each.encode() for each in wanted if each.encode() not in there]
    if own and not own.endswith(b"\n"):
        own += b"\n"
    write_whole(place, own + b"".join(line + b"\n" for line in lines))
    left_out = ignored_by_git(root, [f"./{name}" for name in files])
    for name in files:
        if f"./{name}" not in left_out:
            raise ParamsInvalid(
                f"git does not leave out {name}, a file of the source. Take it out of git "
                "(git rm --cached) and out of what .gitignore keeps, or move it elsewhere."
            )
    for path, content in _templates().items():
        write_whole(root / path, content)
    return new
