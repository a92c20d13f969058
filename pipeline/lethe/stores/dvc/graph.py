"""The pipeline for a scheduler: `dvc.yaml` as plain JSON, which needs neither DVC nor this package.

A stage comes after every stage that makes something it reads. That is all a scheduler needs to
know of the pipeline; what runs, and whether it must, is still decided by DVC.
"""

from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml.error import YAMLError

from lethe.config.workspace import REPORTS
from lethe.core.errors import ParamsInvalid
from lethe.core.reading import damage, load_yaml

COMPILED = Path("dags/pipeline.json")
META: dict[str, type] = {
    "pool": str,
    "executor": str,
    "gpu": bool,
    "subject_keys": bool,
    "resumes": bool,
    "retries": int,
}


def read_stages(path: Path) -> dict[str, Any]:
    """The stages of a `dvc.yaml`, as they stand there."""
    with damage(lambda: ParamsInvalid(f"{path} has no stages, as DVC reads them. Correct it.")):
        try:
            loaded, _ = load_yaml(path)
        except YAMLError:
            raise ValueError from None
        stages: dict[str, Any] = {**loaded["stages"]}
    return stages


def compile_pipeline(stages: dict[str, Any], approvers: Sequence[str] = ()) -> dict[str, Any]:
    """Stages, commands, edges and `meta`, in an order in which nothing comes before its inputs.

    Args:
        stages: as `read_stages` gives them.
        approvers: `registration.approvers` of `params.yaml`.

    Returns:
        `approvers`: the user names of whom a new version waits for; none if for nobody.
        `stages`: a list of name, description, command, `after` (names of the stages whose outputs
        it reads, sorted) and the keys of `meta`. `scratch`: the uncached outputs of stages that
        see subject keys, reports apart; they must not outlive a run.

    Raises:
        ParamsInvalid: a stage lacks a key of `meta`, or has one of another type or name; or
            stages wait for one another.
    """
    made = {name: outputs(stage) for name, stage in stages.items()}
    after = {
        name: sorted(
            other
            for other, outputs in made.items()
            if other != name
            and any(meets(need, output) for need in stage.get("deps", ()) for output in outputs)
        )
        for name, stage in stages.items()
    }
    return {
        "approvers": list(approvers),
        "stages": [
            {
                "name": name,
                "description": stages[name].get("desc", ""),
                "command": stages[name]["cmd"],
                "after": after[name],
                **_meta(name, stages[name].get("meta", {})),
            }
            for name in _ordered(after)
        ],
        "scratch": sorted(
            path
            for stage in stages.values()
            if stage.get("meta", {}).get("subject_keys")
            for entry in stage.get("outs", ())
            for path, options in (entry.items() if isinstance(entry, dict) else ())
            if options.get("cache") is False and not meets(path, REPORTS.as_posix())
        ),
    }


def outputs(stage: dict[str, Any]) -> list[str]:
    """Everything that a stage makes; metrics and plots are read by later stages too."""
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in stage.get(kind, ())]
    return [path for entry in entries for path in ([entry] if isinstance(entry, str) else entry)]


def meets(need: str, output: str) -> bool:
    """Whether one is the other, or lies in it."""
    one, other = PurePosixPath(need), PurePosixPath(output)
    return one == other or one in other.parents or other in one.parents


def _meta(name: str, meta: dict[str, Any]) -> dict[str, Any]:
    wrong = sorted(meta.keys() ^ META.keys()) or sorted(
        key for key, kind in META.items() if type(meta[key]) is not kind
    )
    if wrong:
        raise ParamsInvalid(
            f"dvc.yaml, stage {name}: `meta` has exactly {', '.join(META)}, each of its own type; "
            f"look at {', '.join(wrong)}."
        )
    return {key: meta[key] for key in META}


def _ordered(after: dict[str, list[str]]) -> list[str]:
    """Each stage behind what it waits for; else as `dvc.yaml` has them."""
    try:
        return list(TopologicalSorter(after).static_order())
    except CycleError as error:
        circle = sorted(set(error.args[1]))
        raise ParamsInvalid(f"dvc.yaml: {', '.join(circle)} wait for one another.") from None
