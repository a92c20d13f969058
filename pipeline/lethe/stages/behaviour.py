"""What decides each stage, as digests in `behaviour.json` that the stages of `dvc.yaml` depend on.

A stage is decided by its own module and by all that this imports of the package, but for what is
named below with the reason. DVC repeats a stage when its digest in `behaviour.json` changes.
`lethe compile` alone writes that file, so that whoever changes what trains people's data says so
in a commit, and every stage refuses to run by other code than the file names.

Versions of other packages are no part of it: they are pinned where the environment is.
"""

import hashlib
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lethe.config import workspace
from lethe.config.params import Params
from lethe.core.behaviour import OWN, Code, own_code
from lethe.core.errors import DiskFull, ParamsInvalid
from lethe.core.files import json_bytes, write_json, write_whole
from lethe.core.reading import parse_data
from lethe.stages import STAGES
from lethe.stores.dvc.graph import read_stages

FILE = Path("behaviour.json")
HELD = workspace.STATE / "behaviour"  # what was compared last, and held
_PIPELINE = Path("dvc.yaml")

# Nothing of these decides what comes out of a stage.
_NO_STAGE = {
    "lethe.core.behaviour": "this digest itself",
    "lethe.core.children": "what processes inherit",
    "lethe.core.closing": "that what was opened is closed",
    "lethe.core.ends": "how a command ends before its time",
    "lethe.core.errors": "what is said when it fails",
    "lethe.core.files": "how files are written",
    "lethe.core.locks": "who waits for whom",
    "lethe.core.notices": "what is said beside",
    "lethe.core.outcomes": "what an erasure reports",
    "lethe.core.silence": "how long a silent server is waited for",
    "lethe.core.sql": "how databases are opened",
    "lethe.core.syntax": "how code is compared",
    "lethe.core.version": "the number of the version",
    "lethe.config.home": "where files are",
    "lethe.config.identity": "which workspace this is",
    "lethe.config.transcripts": "where files are",
    "lethe.config.undecided": "what a draft leaves open, and so runs nothing",
    "lethe.config.keys": "how a key is found; another key is another vault",
    "lethe.config.workspace": "where files are",
    "lethe.stages.__init__": "the names of the stages",
    "lethe.stages.behaviour": "this module, which decides only whether a stage may run",
}
# A training is repeated, and charged to everybody, for what decides its model alone.
_NOT_TRAINING = {
    "lethe.config.checks": "what may not be declared at all",
    "lethe.config.report_fields": "what its report may not have",
    "lethe.config.params": "what it reads of other sections is in the plan and the encoding",
    "lethe.config.sections": "the declarations of those sections",
    "lethe.config.tables": "how columns are read is in the shards and the encoding",
    "lethe.ledger": "who may still be charged is asked when it trains, and is no reason to train",
    "lethe.registration": "refuses a ledger that was rolled back",
    "lethe.stores": "where ledger and registry are, which are asked whether it may train",
}
# Of a trainer, these ask what its plan and its release are, and fit nothing.
_NOT_FITTED = {
    "lethe.training.dpsgd_fit": "fits",
    "lethe.training.loop": "takes the steps",
    "lethe.training.rehearsal": "tries the network",
}
# What a stage starts by its name, in a process of its own; no import leads there.
_STARTED = {"audit": ("lethe.attacks.run.__main__",)}
_NOT_OF = {"train": _NOT_TRAINING, "budget": _NOT_FITTED, "register": _NOT_FITTED}


def modules(stage: str) -> frozenset[str]:
    """The modules of the package that decide what comes out of a stage."""
    without = {**_NO_STAGE, **_NOT_OF.get(stage, {})}
    starts = (f"lethe.stages.{stage}", *_STARTED.get(stage, ()))
    return frozenset[str]().union(*(own_code().reached(s, leave_out=without) for s in starts))


def digests(params: Params) -> dict[str, str]:
    """What decides each stage, by the code that runs.

    Raises:
        ParamsInvalid: the user's own model is not beside `params.yaml`, or no Python.
    """
    found = {stage: own_code().digest(modules(stage)) for stage in STAGES}
    own = _own_model(params)
    return found | {stage: _both(found[stage], own) for stage in ("train", "audit") if own}


def training_digest(params: Params) -> str:
    """What decides a training: this code, and the user's own model."""
    return _both(own_code().digest(modules("train")), _own_model(params))


def audit_digest(params: Params) -> str:
    """What decides an audit: this code, and the user's own model."""
    return _both(own_code().digest(modules("audit")), _own_model(params))


def write(params: Params) -> list[str]:
    """Writes `behaviour.json`; the stages whose code is another than it said.

    Raises:
        ParamsInvalid: as `digests`; or `dvc.yaml` is of an earlier version.
    """
    _refuse_untied(params)
    now, file = digests(params), params.at(FILE)
    before = _written(params) if file.exists() else {}
    write_json(file, now)
    return [stage for stage in STAGES if before.get(stage) != now[stage]]


def first() -> bytes:
    """`behaviour.json` of a new workspace, which has no model of its own yet."""
    return json_bytes({stage: own_code().digest(modules(stage)) for stage in STAGES})


def consequence(changed: Sequence[str]) -> str:
    """What a change of some stages' code means for the next run."""
    if "train" in changed:
        return "the next run trains again and charges everybody"
    return "the next run repeats that, and trains again only if the data comes out different"


def refuse_changed(params: Params) -> None:
    """Compares the code that runs with what the pipeline's results were made by.

    Where nothing changed since it last held, not a byte of code or declarations, only that is
    looked at: it costs milliseconds.

    Raises:
        ParamsInvalid: the code of a stage is not that of `behaviour.json`; or this is absent,
            edited by hand, or nothing in `dvc.yaml` depends on it.
    """
    if not params.at(_PIPELINE).exists():
        return  # nothing is skipped here: whoever runs a stage means it
    seen, held = _as_it_lies(params), params.at(HELD)
    with suppress(OSError):
        if held.read_bytes() == seen.encode():
            return
    _refuse_untied(params)
    written, now = _written(params), digests(params)
    changed = [stage for stage in STAGES if written.get(stage) != now[stage]]
    if changed:
        raise ParamsInvalid(
            f"The code of {', '.join(changed)} changed since lethe compile: run `lethe compile` "
            f"and commit {FILE}; {consequence(changed)}."
        )
    if unknown := sorted(written.keys() - now.keys()):
        raise ParamsInvalid(
            f"{FILE} names {', '.join(unknown)}, which is no stage. Run `lethe compile` and "
            "commit it."
        )
    with suppress(OSError, DiskFull):  # it is compared again then
        write_whole(held, seen.encode())


def _own_model(params: Params) -> str:
    """Of the user's own model and all that it imports of the workspace; empty if there is none."""
    module, colon, _ = params.training.model.partition(":")
    if not colon:
        return ""
    code = Code(params.root)
    try:
        return code.digest(code.reached(module))
    except ParamsInvalid as error:
        raise ParamsInvalid(
            f"training.model={params.training.model!r}: {error} What trains lies beside "
            "params.yaml."
        ) from None


def _both(package: str, own: str) -> str:
    return hashlib.sha256(f"{package} {own}".encode()).hexdigest() if own else package


def _written(params: Params) -> dict[str, object]:
    try:
        found = parse_data(params.at(FILE).read_bytes())
    except FileNotFoundError:
        raise ParamsInvalid(
            f"{FILE} does not exist. Run `lethe compile` and commit it: it says what code the "
            "stages run by."
        ) from None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ParamsInvalid(f"{FILE} is damaged. Run `lethe compile` and commit it.")
    return found


def _refuse_untied(params: Params) -> None:
    """A stage that does not depend on its digest would be skipped whatever its code became."""
    stages = read_stages(params.at(_PIPELINE))
    for name in STAGES:
        keys = stages.get(name, {}).get("params", ())
        tied = [each[str(FILE)] for each in keys if isinstance(each, dict) and str(FILE) in each]
        if name in stages and [name] not in tied:
            raise ParamsInvalid(
                f"{_PIPELINE}: stage {name} does not depend on its key of {FILE}, as in an "
                f"earlier version. Take the {_PIPELINE} of this version, run `lethe compile` and "
                "commit both; the next run then trains again and charges everybody once, since "
                "what trained the model so far cannot be compared with this code."
            )


def _as_it_lies(params: Params) -> str:
    """SHA-256 over every byte that the comparison rests on."""
    whole = hashlib.sha256(f"{sys.version_info[:2]} {_own_model(params)}".encode())
    for path in (params.at(_PIPELINE), params.at(FILE), *sorted(OWN.rglob("*.py"))):
        content = path.read_bytes() if path.exists() else b""
        whole.update(f"{path} {len(content)} ".encode() + content)
    return whole.hexdigest()
