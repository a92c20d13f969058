"""Prose costs nobody anything, and no changed code runs unseen."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lethe.cli.main import app
from lethe.config.params import Params, load_params
from lethe.core.behaviour import Code
from lethe.core.errors import ParamsInvalid
from lethe.ledger import admission
from lethe.stages import STAGES, behaviour
from tests.conftest import PROJECT

PACKAGE = PROJECT / "pipeline" / "lethe"
MODEL = "def build(features, outputs):\n    from layers import layer\n    return layer(features)\n"


@pytest.fixture
def declared() -> Params:
    return load_params(PROJECT / "params.yaml", root=Path())


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: Params) -> Path:
    """Where a pipeline is, with the digests of the code that runs."""
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    behaviour.write(declared)
    return tmp_path


@pytest.fixture
def edit(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str, str], None]:
    """Edits a module of a copy of the package, which from then on is the code that runs."""
    copy = tmp_path_factory.mktemp("code") / "lethe"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))

    def change(module: str, old: str, new: str) -> None:
        text = (copy / module).read_text()
        assert old in text
        (copy / module).write_text(text.replace(old, new, 1))
        code = Code(copy.parent)
        monkeypatch.setattr(behaviour, "OWN", copy)
        for user in (behaviour, admission):
            monkeypatch.setattr(user, "own_code", lambda: code)

    return change


def test_the_committed_digests_are_those_of_the_code(declared: Params) -> None:
    with chdir(PROJECT):
        committed = json.loads(behaviour.FILE.read_text())
        assert committed == behaviour.digests(declared), "run: lethe compile"


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("training/loop.py", '"""', '"""Said once more. '),
        ("training/engines/kernels.py", "import torch\n", "import torch  # of tensors\n"),
        ("privacy/plan.py", "\nimport ", "\n# What a training costs.\nimport "),
        ("data/batches.py", "\ndef ", "\n\n\n\n# Rows.\ndef "),
        (
            "stages/train.py",
            "staged = params.at_home(STAGING) / r",
            "staged = params.at_home(STAGING)  /  r",
        ),
        ("core/files.py", "os.fsync(file.fileno())", "os.fdatasync(file.fileno())"),
    ],
)
def test_prose_repeats_nothing_and_charges_nobody(
    edit: Callable[[str, str, str], None], declared: Params, module: str, old: str, new: str
) -> None:
    before = behaviour.digests(declared), admission.code_digest()
    edit(module, old, new)
    assert behaviour.digests(declared) == before[0]
    assert module.startswith("core") or admission.code_digest() == before[1]


@pytest.mark.parametrize(
    ("module", "old", "new", "repeated"),
    [
        ("training/engines/kernels.py", "import torch\n", "import torch\nX = 1\n", "train audit"),
        ("privacy/noise/chacha.py", "\nimport ", "\nX = 1\nimport ", "train audit"),
        ("stages/train.py", '"manifest.roaring"', '"m.roaring"', "train"),
        (
            "config/training.py",
            "default=0.5, gt=0",
            "default=0.9, gt=0",
            "validate budget train audit",
        ),
        ("attacks/membership.py", "\nimport ", "\nX = 1\nimport ", "audit"),
        ("stages/validate.py", "\nimport ", "\nX = 1\nimport ", "validate"),
        ("ledger/admission.py", "if over and", "if not over and", "budget audit"),
        ("cli/sweep.py", "import ", "X = 1\nimport ", ""),
    ],
)
def test_other_behaviour_repeats_what_it_decides(
    edit: Callable[[str, str, str], None],
    declared: Params,
    module: str,
    old: str,
    new: str,
    repeated: str,
) -> None:
    """Of the stages that DVC may skip; the others look each time anyway."""
    before, recorded = behaviour.digests(declared), admission.code_digest()
    edit(module, old, new)
    after = behaviour.digests(declared)
    skipped = ("pseudonymize", "validate", "budget", "train", "audit")
    changed = {stage for stage in skipped if after[stage] != before[stage]}
    assert changed - {"pseudonymize"} == set(repeated.split())
    outside = module.startswith(("cli/", "attacks/"))
    assert (admission.code_digest() == recorded) is outside


def test_whatever_a_stage_loads_decides_it_or_is_left_out_for_a_reason() -> None:
    """Asked of Python itself, which imports by other means than the digests do."""
    script = "import sys, lethe.stages.train, lethe.training.dpsgd_fit; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    loaded = {name for name in done.stdout.split() if name.startswith("lethe.")}
    assert {"lethe.training.loop", "lethe.privacy.noise.chacha"} <= loaded
    decided = behaviour.modules("train")
    reasons = {**behaviour._NO_STAGE, **behaviour._NOT_TRAINING}
    assert all(len(reason) > 10 for reason in reasons.values())
    exact = {name.removesuffix(".__init__") for name in reasons}
    allowed = decided | exact | behaviour.own_code().reached("lethe.stages.behaviour")
    packages = tuple(f"{each}." for each in reasons)
    assert [name for name in sorted(loaded - allowed) if not name.startswith(packages)] == []


def test_what_the_ledger_records_covers_all_that_decides_a_release() -> None:
    code = behaviour.own_code()
    recorded = code.below(*admission._DECIDE)
    for stage in STAGES[: STAGES.index("train") + 1]:
        assert code.reached(f"lethe.stages.{stage}") <= recorded, stage
    assert "lethe.training.engines.kernels" in recorded


# ---------------------------------------------------------------------- nothing runs unseen


def _edited(path: Path, edit: Callable[[dict[str, str]], object]) -> None:
    digests = json.loads(path.read_text())
    edit(digests)
    path.write_text(json.dumps(digests))


@pytest.mark.parametrize("stage", STAGES)
def test_code_that_changed_since_compile_stops_every_stage(
    root: Path, declared: Params, stage: str
) -> None:
    behaviour.refuse_changed(declared)
    _edited(root / "behaviour.json", lambda digests: digests.update({stage: "0" * 64}))
    with pytest.raises(ParamsInvalid, match=f"code of {stage} changed since lethe compile: run"):
        behaviour.refuse_changed(declared)
    assert behaviour.write(declared) == [stage]
    behaviour.refuse_changed(declared)


@pytest.mark.parametrize("command", [*STAGES, "run", "check"])
def test_every_command_that_may_train_looks_first(root: Path, command: str) -> None:
    _edited(root / "behaviour.json", lambda digests: digests.update(train="0" * 64))
    done = CliRunner().invoke(app, [command])
    assert isinstance(done.exception, ParamsInvalid)
    assert str(done.exception) == (
        "The code of train changed since lethe compile: run `lethe compile` and commit "
        "behaviour.json; the next run trains again and charges everybody."
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda path: path.unlink(), "does not exist. Run `lethe compile`"),
        (lambda path: path.write_text("{"), "is damaged"),
        (lambda path: path.write_text("[]"), "is damaged"),
        (lambda path: path.write_bytes(b"\xff"), "is damaged"),
        (lambda path: path.write_text("{}"), "code of minimize, consent,"),
        (lambda path: _edited(path, lambda d: d.pop("audit")), "code of audit changed"),
        (lambda path: _edited(path, lambda d: d.update(train=None)), "trains again"),
        (lambda path: _edited(path, lambda d: d.update(trian="0")), "names trian"),
    ],
)
def test_a_wrong_file_of_digests_is_refused(
    root: Path, declared: Params, edit: Callable[[Path], object], said: str
) -> None:
    edit(root / "behaviour.json")
    with pytest.raises(ParamsInvalid, match=said):
        behaviour.refuse_changed(declared)


def test_what_held_once_is_not_taken_for_other_code(
    root: Path, declared: Params, edit: Callable[[str, str, str], None]
) -> None:
    behaviour.refuse_changed(declared)
    assert behaviour.HELD.exists()
    edit("training/engines/kernels.py", "import torch\n", "import torch\nX = 1\n")
    with pytest.raises(ParamsInvalid, match="code of train, audit changed"):
        behaviour.refuse_changed(declared)


def test_a_pipeline_of_the_version_before_says_what_its_next_run_costs(
    root: Path, declared: Params
) -> None:
    text = (root / "dvc.yaml").read_text()
    (root / "dvc.yaml").write_text(text.replace(", {behaviour.json: [train]}", ""))
    said = "stage train does not depend .* charges everybody once"
    for ask in (behaviour.refuse_changed, behaviour.write):
        with pytest.raises(ParamsInvalid, match=said):
            ask(declared)


def test_a_folder_without_a_pipeline_has_nothing_to_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: Params
) -> None:
    monkeypatch.chdir(tmp_path)
    behaviour.refuse_changed(declared)


# ---------------------------------------------------------------------- one's own model


def test_a_model_of_ones_own_decides_training_and_audit(root: Path, declared: Params) -> None:
    (root / "wards.py").write_text(MODEL)
    (root / "layers.py").write_text("def layer(width):\n    return width\n")
    training = replace(declared.training, model="wards:build")
    own = replace(declared, training=training, root=root)
    assert behaviour.write(own) == ["train", "audit"]
    request = behaviour.training_digest(own)
    behaviour.refuse_changed(own)
    (root / "layers.py").write_text("# wide\ndef layer(width):\n    return width\n")
    behaviour.refuse_changed(own)
    assert behaviour.training_digest(own) == request
    (root / "layers.py").write_text("def layer(width):\n    return width + 1\n")
    with pytest.raises(ParamsInvalid, match=r"code of train, audit changed .* charges everybody"):
        behaviour.refuse_changed(own)
    assert behaviour.training_digest(own) != request


def test_a_model_that_is_not_beside_the_declarations_is_refused(
    root: Path, declared: Params
) -> None:
    training = replace(declared.training, model="elsewhere:build")
    with pytest.raises(ParamsInvalid, match="no module elsewhere"):
        behaviour.write(replace(declared, training=training))
