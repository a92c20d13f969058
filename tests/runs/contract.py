"""What every runner keeps to; one suite, which the test of each kind of place inherits.

The pipeline is three stages of a few lines. They write down outside of every place that they ran,
and fail where the test says so.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lethe.core.children import environment_without_keys
from lethe.runs.runner import Runner, StageFailed
from lethe.stores.dvc.repro import StageEvent
from tests.conftest import Workspace
from tests.past_pipeline import commit

SCRATCH = "data/minimized"
ORDER = ["minimize", "pseudonymize", "validate"]

STAGE = """
import json, pathlib, sys
stage, outside = sys.argv[1], pathlib.Path("OUTSIDE")
with (outside / "ran").open("a") as ran: ran.write(stage + "\\n")
if stage in (outside / "fails").read_text():
    failure = {"exit_code": 23, "message": "Of 9 people 3 are too few."}
    pathlib.Path(".lethe").mkdir(exist_ok=True)
    pathlib.Path(".lethe/failure.json").write_text(json.dumps(failure))
    raise SystemExit(23)
def write(path, content):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content)
if stage == "minimize": write("data/minimized/keys", "ada-4711 " + (outside / "source").read_text())
if stage == "pseudonymize":
    write("data/shards/one", "token of " + pathlib.Path("data/minimized/keys").read_text()[9:])
if stage == "validate": write("reports/validate.json", json.dumps({"passed": True}))
"""


def make_pipeline(workspace: Workspace, outside: Path) -> Path:
    """Puts the three stages in place of the project's, committed; the workspace's root."""
    root = workspace.root
    outside.mkdir()
    (outside / "source").write_text("sunny")
    (outside / "fails").touch()
    meta = {"pool": "cpu", "executor": "cpu", "gpu": False, "resumes": False, "retries": 0}
    stages = {
        "minimize": {"outs": [{SCRATCH: {"cache": False}}], "always_changed": True},
        "pseudonymize": {"deps": [SCRATCH], "outs": ["data/shards"]},
        "validate": {
            "deps": ["data/shards"],
            "outs": [{"reports/validate.json": {"cache": False}}],
        },
    }
    for name, stage in stages.items():
        stage["cmd"] = f"python stage.py {name}"
        stage["meta"] = {**meta, "subject_keys": name != "validate"}
    with (root / "dvc.yaml").open("w") as file:
        YAML().dump({"stages": stages}, file)
    (root / "stage.py").write_text(STAGE.replace("OUTSIDE", str(outside)))

    def edit(raw: dict[str, dict[str, str]]) -> None:
        raw["source"]["url"] = "env:LETHE_SOURCE_URL"
        raw["stores"].update({n: f"env:LETHE_{n.upper()}_URL" for n in STORES})

    workspace.edit_params(edit)
    remote = ("dvc", "remote", "modify", "--quiet", "default", "url", str(outside / "dvc"))
    workspace.run(*remote)
    commit(root, "Three stages")
    return root


STORES = ("vault", "ledger", "registry")


@dataclass
class Made:
    """A runner of the pipeline, and where its stages say that they ran."""

    runner: Runner
    outside: Path

    @property
    def ran(self) -> list[str]:
        """The stages that ran since this was asked last."""
        path = self.outside / "ran"
        found = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return found

    @property
    def has_keys(self) -> bool:
        return (self.runner.root / SCRATCH).exists()

    def made(self, path: str) -> str:
        return (self.runner.root / path).read_text()


class RunnerContract:
    """Inherit it, and give `place`."""

    place: Callable[[Workspace, Path, Path], Runner]  # (workspace, outside, an empty folder)

    @pytest.fixture
    def made(self, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
        monkeypatch.setenv("PATH", workspace.environment()["PATH"])
        for name in [n for n in environment_without_keys() if n.startswith("LETHE_")]:
            monkeypatch.delenv(name)
        outside = tmp_path / "outside"
        make_pipeline(workspace, outside)
        return Made(type(self).place(workspace, outside, tmp_path / "place"), outside)

    def test_it_runs_what_changed_in_order_and_leaves_no_keys(self, made: Made) -> None:
        seen: list[StageEvent] = []
        made.runner.run(report=seen.append)
        assert made.ran == ORDER
        assert [e.stage for e in seen if e.kind == "finished"] == ORDER
        assert made.made("data/shards/one") == "token of sunny"
        assert json.loads(made.made("reports/validate.json")) == {"passed": True}
        assert not made.has_keys
        made.runner.run()  # what sees keys looks again, and nothing comes of it
        assert set(made.ran) <= {"minimize", "pseudonymize"}
        (made.outside / "source").write_text("rainy")
        made.runner.run(["pseudonymize"])
        assert made.ran == ["minimize", "pseudonymize"]
        assert made.made("data/shards/one") == "token of rainy"
        assert not made.has_keys

    def test_a_stage_that_fails_ends_it_with_its_own_words_and_code(self, made: Made) -> None:
        (made.outside / "fails").write_text("pseudonymize")
        with pytest.raises(StageFailed, match="pseudonymize: Of 9 people 3 are too few") as failed:
            made.runner.run()
        assert failed.value.exit_code == 23
        assert made.ran == ["minimize", "pseudonymize"]
        assert not made.has_keys

    def test_one_stage_alone_leaves_what_the_next_reads(self, made: Made) -> None:
        made.runner.run_stage("minimize")
        assert made.ran == ["minimize"]
        assert made.has_keys
        (made.outside / "fails").write_text("pseudonymize")
        with pytest.raises(StageFailed):
            made.runner.run_stage("pseudonymize")
        assert made.has_keys
        (made.outside / "fails").write_text("")
        made.runner.run_stage("pseudonymize")
        assert made.ran == ["pseudonymize"] * 2
        assert made.made("data/shards/one") == "token of sunny"
