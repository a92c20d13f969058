"""The whole pipeline as a user runs it: a source goes in, a registered private model comes out."""

import json
import re
import sqlite3
import subprocess
import zlib
from itertools import groupby
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.config.keys import read_key_file
from lethe.ledger.ledger import Ledger
from lethe.stores.vault.vault import Vault
from tests.conftest import Workspace


def _report(workspace: Workspace, stage: str) -> dict:
    return json.loads((workspace.root / "reports" / f"{stage}.json").read_text())


def _exact(workspace: Workspace, stage: str) -> dict:
    """What the operator alone sees of a stage."""
    return json.loads((workspace.root / f".lethe/private/reports/{stage}.json").read_text())


def _spends(workspace: Workspace) -> int:
    with Ledger.open(f"sqlite:///{workspace.root / '.lethe' / 'ledger.db'}") as ledger:
        return ledger.head()[0]


def test_the_pipeline_ends_with_a_registered_model_within_its_budget(finished: Workspace) -> None:
    registered = _report(finished, "register")
    trained = _report(finished, "train")
    assert registered["version"] == 1
    assert {"candidate", "champion"} <= set(registered["aliases"])
    assert trained["epsilon_pld"] <= 1.0
    assert trained["epsilon_pld"] <= trained["epsilon_rdp"]
    assert trained["unit"] == "person"
    assert _report(finished, "audit")["passed"] is True
    assert _report(finished, "validate")["passed"] is True


def test_only_willing_people_of_the_training_part_are_in_the_model(finished: Workspace) -> None:
    consented = _exact(finished, "consent")
    trained = _exact(finished, "train")
    tokens = _exact(finished, "pseudonymize")
    assert trained["subjects"] == tokens["subjects"] - tokens["held_out"]
    assert tokens["subjects"] == consented["subjects"]
    assert consented["subjects"] < consented["subjects_in"]


def test_nothing_with_subject_keys_is_left_after_the_pipeline(finished: Workspace) -> None:
    assert not (finished.root / "data" / "minimized").exists()
    assert not (finished.root / "data" / "consented").exists()
    assert not (finished.root / ".lethe" / "tmp").exists()


def test_a_second_run_retrains_nothing_and_spends_nothing(finished_copy: Workspace) -> None:
    before = _spends(finished_copy)
    models = {p.name: p.read_bytes() for p in (finished_copy.root / "model").iterdir()}
    again = finished_copy.lethe("run", PYTHONHASHSEED="7")  # so a new interpreter: another order
    assert _spends(finished_copy) == before
    assert {p.name: p.read_bytes() for p in (finished_copy.root / "model").iterdir()} == models
    assert _report(finished_copy, "register")["version"] == 1
    assert re.search(r"train\s+unchanged", again.stdout)


def test_a_forced_run_is_a_new_release_and_is_charged(finished_copy: Workspace) -> None:
    before = _spends(finished_copy)
    finished_copy.lethe("run", "--force")
    assert _spends(finished_copy) > before
    assert _report(finished_copy, "register")["version"] == 2


def _one_of_each(workspace: Workspace) -> tuple[str, str, str]:
    """A key whose person trained the model, one who was held out, one who is in nothing."""
    with sqlite3.connect(workspace.root / "data" / "clinic.db") as source:
        keys = [row[0] for row in source.execute("SELECT patient_id FROM patients")]
    key = read_key_file(workspace.root / "secrets" / "lethe.key")
    with Vault.open(f"sqlite:///{workspace.root}/.lethe/vault.db", key, create=False) as vault:
        tokens = vault.lookup(keys).tolist()
    manifest = BitMap.deserialize((workspace.root / "data" / "manifest.roaring").read_bytes())
    trained = next(key for key, token in zip(keys, tokens, strict=True) if token in manifest)
    held_out = next(
        key for key, token in zip(keys, tokens, strict=True) if token >= 0 and token not in manifest
    )
    return trained, held_out, keys[tokens.index(-1)]


def test_lineage_answers_both_ways(finished: Workspace) -> None:
    model = json.loads(finished.lethe("lineage", "--model", "readmission/1", "--json").stdout)
    assert set(model) == {
        *("model", "version", "status", "subjects", "records", "manifest_md5", "data_md5"),
        *("git_commit", "dvc_lock_md5", "epsilon_pld", "epsilon_rdp", "delta", "unit", "metrics"),
    }
    charged = _report(finished, "train")["metrics"]
    assert model["subjects"] == charged["subjects"]["value"]
    assert charged["subjects"]["private"] is True
    trained, held_out, unwilling = _one_of_each(finished)
    for key, models, datasets in ((trained, 1, 1), (held_out, 0, 1), (unwilling, 0, 0)):
        answer = json.loads(finished.lethe("lineage", "--subject", key, "--json").stdout)
        assert set(answer) == {"models", "datasets"}
        assert (len(answer["models"]), len(answer["datasets"])) == (models, datasets)
    unknown = json.loads(finished.lethe("lineage", "--subject", "nobody", "--json").stdout)
    assert unknown == {"models": [], "datasets": []}


def _personal_values(workspace: Workspace) -> set[bytes]:
    with sqlite3.connect(workspace.root / "data" / "clinic.db") as source:
        rows = source.execute(
            "SELECT patient_id, full_name, email, phone, street FROM patients"
        ).fetchall()
    return {str(value).encode() for row in rows for value in row if value}


def _any_of(values: list[str]) -> str:
    """A pattern that finds any of some sorted values, each common beginning looked at once."""
    if not values[0]:
        return ""  # a value ends here: what is longer has it, too
    found = []
    for letter, beginning in groupby(values, key=lambda value: value[0]):
        rest = [value[1:] for value in beginning]
        found.append(re.escape(letter) + _any_of(rest))
    return found[0] if len(found) == 1 else f"(?:{'|'.join(found)})"


def _contents(path: Path) -> list[bytes]:
    """The bytes of a file, and what they hold once decompressed."""
    content = path.read_bytes()
    found = [content]
    if content[:2] in (b"\x1f\x8b", b"\x78\x9c"):
        found.append(zlib.decompress(content, wbits=47))
    if content[:4] == b"PAR1":
        import pandas as pd

        found.append(pd.read_parquet(path).to_csv().encode())
    return found


def test_no_name_mail_phone_address_or_key_leaves_source_and_vault(finished: Workspace) -> None:
    values = _personal_values(finished)
    assert len(values) > 5_000
    pattern = re.compile(_any_of(sorted(value.decode("latin-1") for value in values)))
    searched = 0
    for path in finished.root.rglob("*"):
        relative = path.relative_to(finished.root)
        if not path.is_file() or str(relative).startswith(("data/clinic.db", ".venv")):
            continue
        searched += 1
        for content in _contents(path):
            hit = pattern.search(content.decode("latin-1"))
            assert hit is None, f"{relative} holds a personal value"
    assert searched > 50


def test_the_search_would_find_what_it_looks_for(finished_copy: Workspace) -> None:
    leak = sorted(_personal_values(finished_copy))[0]
    (finished_copy.root / "leak.log").write_bytes(b"lorem " + leak + b" ipsum")
    with pytest.raises(AssertionError, match=r"leak\.log"):
        test_no_name_mail_phone_address_or_key_leaves_source_and_vault(finished_copy)


def test_the_registered_model_takes_the_sources_own_columns(finished: Workspace) -> None:
    assert "champion" in _report(finished, "register")["aliases"], _report(finished, "register")
    program = (
        "import mlflow, pandas as pd, sqlalchemy as sa\n"
        "mlflow.set_tracking_uri('sqlite:///mlflow.db')\n"
        "model = mlflow.pyfunc.load_model('models:/readmission@champion')\n"
        "engine = sa.create_engine('sqlite:///data/clinic.db')\n"
        "rows = pd.read_sql('select * from encounters limit 20', engine)\n"
        "names = model.metadata.get_input_schema().input_names()\n"
        "assert 'insulin' in names and 'patient_id' not in names, names\n"
        "scores = model.predict(rows[names])\n"
        "assert len(scores) == 20 and scores['probability'].between(0, 1).all()\n"
    )
    finished.run("python", "-W", "ignore", "-c", program, MLFLOW_DISABLE_TELEMETRY="true")


def test_dvc_agrees_that_nothing_is_left_to_do_but_to_look_at_the_source(
    finished_copy: Workspace,
) -> None:
    again = finished_copy.run("dvc", "repro")
    assert "Stage 'train' didn't change, skipping" in again.stdout


def test_stages_can_be_run_one_by_one(finished_copy: Workspace) -> None:
    for stage in ("minimize", "consent", "pseudonymize", "validate", "budget"):
        finished_copy.lethe(stage)
    assert _report(finished_copy, "budget")["plan"]["records_per_person"] == 4


def test_code_of_the_model_travels_with_it(finished: Workspace) -> None:
    listing = subprocess.run(
        [
            "find",
            str(finished.root),
            "-path",
            "*/lethe/registration/serving.py",
            "-not",
            "-path",
            "*/.git/*",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(listing) >= 2  # the workspace's own, and the model's
