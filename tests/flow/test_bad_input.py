"""Bad input: one clear line, an exit code of its own, nothing spent, nothing registered."""

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lethe.core import errors
from tests.conftest import Workspace, make_workspace


@pytest.fixture(scope="session")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = make_workspace(tmp_path_factory.mktemp("sampled") / "workspace")
    made.lethe("key")
    made.lethe("sample", "--patients", "400")
    return made


@pytest.fixture
def ready(sampled: Workspace, tmp_path: Path) -> Workspace:
    shutil.copytree(sampled.root, tmp_path / "copy", symlinks=True)
    return Workspace(tmp_path / "copy")


def _sql(*statements: str) -> Callable[[Workspace], None]:
    def break_it(workspace: Workspace) -> None:
        with sqlite3.connect(workspace.root / "data" / "clinic.db") as source:
            for statement in statements:
                source.execute(statement)
        source.close()

    return break_it


def _declare(edit: Callable[[dict[str, Any]], object]) -> Callable[[Workspace], None]:
    return lambda workspace: workspace.edit_params(edit)


def _encounter(raw: dict[str, Any], name: str) -> dict[str, Any]:
    return raw["tables"]["encounters"]["columns"][name]


# Surely within retention, whatever day it is; by age alone row 1 might not be read at all.
_NEWEST = "WHERE admitted_at = (SELECT max(admitted_at) FROM encounters)"


def _rebuild_patients(*, key: str) -> Callable[[Workspace], None]:
    """The same table without a primary key, where a key can be null or come twice."""
    return _sql(
        "PRAGMA foreign_keys = OFF",
        "CREATE TABLE p AS SELECT * FROM patients",
        "DROP TABLE patients",
        "ALTER TABLE p RENAME TO patients",
        key,
    )


def _another_key(workspace: Workspace) -> None:
    workspace.lethe("minimize")  # makes the vault
    (workspace.root / "secrets" / "lethe.key").unlink()
    workspace.lethe("key", check=False)  # it says so itself, too


CASES: dict[str, tuple[type[errors.LetheError], Callable[[Workspace], None], str]] = {
    "no source": (
        errors.SourceUnavailable,
        lambda w: (w.root / "data" / "clinic.db").unlink(),
        "clinic.db",
    ),
    "no server": (
        errors.SourceUnavailable,
        _declare(
            lambda r: r["source"].update(url="postgresql://u:hunter2@127.0.0.1:1/none"),
        ),
        "127.0.0.1",
    ),
    "table present but undeclared": (
        errors.SchemaMismatch,
        _sql("CREATE TABLE allergies (allergy_id INTEGER PRIMARY KEY)"),
        "allergies",
    ),
    "table declared but absent": (errors.SchemaMismatch, _sql("DROP TABLE notes"), "notes"),
    "column present but undeclared": (
        errors.SchemaMismatch,
        _sql("ALTER TABLE patients ADD COLUMN religion TEXT"),
        "patients.religion",
    ),
    "column declared but absent": (
        errors.SchemaMismatch,
        _sql("ALTER TABLE encounters DROP COLUMN insulin"),
        "encounters.insulin",
    ),
    "value outside its domain": (
        errors.ValueOutsideDomain,
        _sql(f"UPDATE encounters SET insulin = 'Sideways' {_NEWEST}"),
        "insulin",
    ),
    "subject key null": (
        errors.SubjectKeyInvalid,
        _rebuild_patients(key="UPDATE patients SET patient_id = NULL WHERE rowid = 1"),
        "null",
    ),
    "subject key twice": (
        errors.SubjectKeyInvalid,
        _rebuild_patients(key="INSERT INTO patients SELECT * FROM patients LIMIT 1"),
        "repeated",
    ),
    "consent of an unknown subject": (
        errors.ConsentInvalid,
        _sql("UPDATE consents SET patient_id = 'P-nobody' WHERE rowid = 1"),
        "unknown",
    ),
    "an answer that is neither": (
        errors.ConsentInvalid,
        _sql("UPDATE consents SET answer = 'perhaps' WHERE purpose = 'readmission_model'"),
        "neither",
    ),
    "consent from the future": (
        errors.ConsentInvalid,
        _sql("UPDATE consents SET answered_at = '2999-01-01 00:00:00' WHERE rowid = 1"),
        "future",
    ),
    "too few subjects": (
        errors.TooFewSubjects,
        _declare(lambda r: r["subject"].update(minimum=900)),
        "900",
    ),
    "nobody consents": (
        errors.NobodyConsents,
        _sql("UPDATE consents SET answer = 'no'"),
        "readmission_model",
    ),
    "purpose nobody was asked about": (
        errors.ParamsInvalid,
        _declare(lambda r: r.update(purpose="readmision_model")),
        "readmission_model",
    ),
    "infinite feature": (
        errors.NotFinite,
        _sql(f"UPDATE encounters SET time_in_hospital = 9e999 {_NEWEST}"),
        "time_in_hospital",
    ),
    "key file of nonsense": (
        errors.KeyInvalid,
        lambda w: (w.root / "secrets" / "lethe.key").write_text("nonsense\n"),
        "lethe.key",
    ),
    "key file that others can read": (
        errors.KeyInvalid,
        lambda w: (w.root / "secrets" / "lethe.key").chmod(0o644),
        "600",
    ),
    "no key": (errors.KeyInvalid, lambda w: shutil.rmtree(w.root / "secrets"), "lethe key"),
    "vault of another key": (errors.VaultMismatch, _another_key, "belongs to key"),
    "params that are not YAML": (
        errors.ParamsInvalid,
        lambda w: (w.root / "params.yaml").write_text("purpose: [\n"),
        "not YAML",
    ),
    "delta of one in the number of subjects": (
        errors.ParamsInvalid,
        _declare(lambda r: r["budget"].update(delta=0.01)),
        "delta",
    ),
    "a budget already spent": (
        errors.BudgetExceeded,
        _declare(
            lambda r: (
                r["budget"].update(epsilon=0.5),
                r["training"]["mechanism"].pop("epsilon"),
                r["training"]["mechanism"].update(noise_multiplier=0.7),
            )
        ),
        "epsilon",
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_gets_one_line_and_its_own_exit_code(case: str, ready: Workspace) -> None:
    error, break_it, said = CASES[case]
    break_it(ready)
    ended = ready.lethe("run", check=False)
    assert ended.returncode == error.exit_code, ended.stderr + ended.stdout
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, ended.stderr
    assert lines[0].startswith("lethe: error: ")
    assert said in lines[0]
    assert "hunter2" not in ended.stderr + ended.stdout
    _assert_nothing_came_of_it(ready)


def _assert_nothing_came_of_it(workspace: Workspace) -> None:
    assert not (workspace.root / "mlflow.db").exists()
    assert not (workspace.root / "model").exists()
    assert not (workspace.root / "data" / "minimized").exists()
    assert not (workspace.root / "data" / "consented").exists()
    assert not list(workspace.root.glob("**/.*.tmp"))
    ledger = workspace.root / ".lethe" / "ledger.db"
    if ledger.exists():
        from lethe.ledger.ledger import Ledger

        with Ledger.open(f"sqlite:///{ledger}") as opened:
            assert opened.head()[0] == 0


@pytest.mark.parametrize(("policy", "counted"), [("clip", "clipped"), ("null", "nulled")])
def test_a_value_outside_its_bounds_is_clipped_or_nulled_with_counts(
    ready: Workspace, policy: str, counted: str
) -> None:
    _sql("UPDATE encounters SET time_in_hospital = 99 WHERE rowid <= 7")(ready)
    ready.edit_params(lambda r: _encounter(r, "time_in_hospital").update(outside=policy))
    ready.lethe("minimize")
    report = (ready.root / "reports" / "minimize.json").read_text()
    assert "time_in_hospital" in report
