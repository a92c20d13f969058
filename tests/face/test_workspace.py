"""Two workspaces in one process that was started in a third folder; and every example is run."""

import doctest
import re
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lethe
from lethe.config.params import load_params
from lethe.core.errors import BudgetExceeded, FileDamaged, NotFound, ParamsInvalid, TrainingRefused
from lethe.ledger.ledger import Ledger
from lethe.stores.opening import open_ledger
from lethe.stores.registry.registry import Registry
from lethe.stores.vault.vault import Vault
from tests.conftest import PROJECT, Workspace, copy_workspace
from tests.warm import warm_bin

OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.fixture(scope="module")
def places(
    finished: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """Two workspaces that were run, of which the second has another budget and another spend."""
    folder = tmp_path_factory.mktemp("face")
    one, other = (copy_workspace(finished, folder / name) for name in ("one", "other"))
    other.edit_params(lambda raw: raw["budget"].update(epsilon=9.0))
    yield one.root, other.root


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LETHE_KEY", raising=False)
    monkeypatch.setattr(sys, "executable", str(warm_bin() / "python"))  # what starts the stages
    return tmp_path


def somebody(root: Path) -> tuple[str, int]:
    """A person who is in the model, and their token."""
    with lethe.Workspace(root) as workspace, sqlite3.connect(root / "data/clinic.db") as clinic:
        keys = [key for (key,) in clinic.execute("SELECT patient_id FROM patients ORDER BY 1")]
        manifest = next(iter(workspace.ledger.runs())).eligible
        tokens = workspace.vault.lookup(keys)
    found = next((k, int(t)) for k, t in zip(keys, tokens, strict=True) if t in manifest)
    clinic.close()
    return found


def test_two_workspaces_answer_for_themselves_wherever_the_process_is(
    places: tuple[Path, Path], elsewhere: Path
) -> None:
    one, other = (lethe.Workspace(place) for place in places)
    with one, other:
        plan = other.plan()
        reserved = other.reserve(plan, request="two at once")
        frames = [workspace.shards() for workspace in (one, other)]
        assert frames[0].equals(frames[1])
        assert {"token", "held_out", "rank"} < set(frames[0].columns)
        assert not {"subject", "patient_id", "email", "name"} & set(frames[0].columns)
        for workspace, place in ((one, places[0]), (other, places[1])):
            assert workspace.params.root == place
            assert workspace.lineage(model="readmission/1")["status"] == "ready"
            key, token = somebody(place)
            (model,) = workspace.lineage(subject=key)["models"]
            assert (model["model"], model["version"]) == ("readmission", 1)
            assert token in set(frames[0]["token"])
            assert workspace.budget(subject=key)["classes"][0]["runs"] >= 1
            assert workspace.registry.find("readmission", "1").version == 1
            assert workspace.requests.all() == []
            assert next(iter(workspace.source.subjects())).notna().all()
            assert lethe.audit(workspace)["passed"]
        assert [each.budget()["budget_epsilon"] for each in (one, other)] == [4.0, 9.0]
        assert reserved.run_id in {run.run_id for run in other.ledger.runs()}
        assert reserved.run_id not in {run.run_id for run in one.ledger.runs()}
        other.ledger.void(reserved.run_id, "it was a test")
    assert list(elsewhere.iterdir()) == [], "nothing was written where the process is"


def test_a_store_is_opened_once_and_closed_with_the_workspace(places: tuple[Path, Path]) -> None:
    with lethe.Workspace(places[0]) as workspace:
        stores = ("ledger", "vault", "requests", "source", "registry")
        opened = {name: getattr(workspace, name) for name in stores}
        assert all(getattr(workspace, name) is opened[name] for name in stores)
    assert not set(stores) & set(vars(workspace))
    assert workspace.ledger is not opened["ledger"], "asked again, it is opened again"
    workspace.close()


def test_what_a_workspace_answers_opens_no_store_again(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = somebody(places[0])
    opened: Counter[str] = Counter()
    for store in (Ledger, Vault, Registry):
        _count_calls(monkeypatch, store, "open", opened)
    with lethe.Workspace(places[0]) as workspace:
        for name in ("ledger", "vault", "registry"):
            getattr(workspace, name)
        before = Counter(opened)
        workspace.budget()
        workspace.budget(subject=key)
        workspace.lineage(model="readmission/1")
        workspace.lineage(subject=key)
        assert lethe.audit(workspace)["passed"]
    assert opened == before
    assert all(opened[each] for each in ("Ledger", "Vault", "Registry"))


def _count_calls(patch: pytest.MonkeyPatch, store: type, name: str, calls: Counter[str]) -> None:
    whole = getattr(store, name)  # of a class method it is bound already

    def counted(*words: Any, **named: Any) -> Any:
        calls[store.__name__] += 1
        return whole(*words, **named)

    patch.setattr(store, name, staticmethod(counted))


def test_a_workspace_is_run_from_another_folder(places: tuple[Path, Path], elsewhere: Path) -> None:
    seen: list[str] = []
    with lethe.Workspace(places[0]) as workspace:
        before = len(workspace.ledger.runs())
        report = workspace.run(report=lambda event: seen.append(f"{event.stage} {event.kind}"))
        assert (report["model"], report["version"]) == ("readmission", 1)
        assert len(workspace.ledger.runs()) == before, "nothing changed: nobody is charged again"
    assert "train skipped" in seen
    assert not list(places[0].glob("data/minimized"))
    assert list(elsewhere.iterdir()) == []


def test_a_file_of_the_shards_that_was_changed_is_not_read(
    finished: Workspace, tmp_path: Path
) -> None:
    root = copy_workspace(finished, tmp_path / "changed").root
    shard = sorted((root / "data/shards").glob("*.parquet"))[0]
    content = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(content + b"x")
    with lethe.Workspace(root) as workspace, pytest.raises(FileDamaged):
        workspace.shards()


def test_who_withdrew_since_keeps_a_notebook_from_reserving(
    finished: Workspace, tmp_path: Path
) -> None:
    root = copy_workspace(finished, tmp_path / "withdrawn").root
    key, _ = somebody(root)
    with sqlite3.connect(root / "data/clinic.db") as clinic:
        columns = [row[1] for row in clinic.execute("PRAGMA table_info(consents)")]
        row = dict(
            zip(
                columns,
                clinic.execute("SELECT * FROM consents WHERE patient_id = ?", (key,)).fetchone(),
                strict=True,
            )
        )
        params = load_params(root / "params.yaml")
        row[params.consent.answer] = "withdrawn"
        row[params.consent.purpose] = params.purpose
        row[params.consent.time] = "2026-01-01 00:00:00"
        for name in columns:
            if name.endswith("_id") and name != "patient_id":
                row[name] = None
        names = ", ".join(columns)
        clinic.execute(
            f"INSERT INTO consents ({names}) VALUES ({', '.join('?' * len(columns))})",
            list(row.values()),
        )
    clinic.close()
    with lethe.Workspace(root) as workspace:
        with pytest.raises(
            TrainingRefused, match="fewer than 100 people in the shards have withdrawn"
        ):
            workspace.reserve(workspace.plan(), request="a")
        assert [run.mechanism for run in workspace.ledger.runs()] == ["dp-sgd", "figures"]


def test_a_budget_that_is_spent_keeps_a_notebook_from_reserving(
    finished: Workspace, tmp_path: Path
) -> None:
    copy = copy_workspace(finished, tmp_path / "spent")
    copy.edit_params(lambda raw: raw["budget"].update(epsilon=1.0, over_budget="refuse"))
    with lethe.Workspace(copy.root) as workspace, pytest.raises(BudgetExceeded):
        for number in range(20):
            workspace.reserve(workspace.plan(), request=str(number))


def test_what_is_not_there_is_said_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(ParamsInvalid, match="does not exist"):
        lethe.Workspace(tmp_path / "nowhere")
    root = tmp_path / "new"
    root.mkdir()
    (root / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    with lethe.Workspace(root) as workspace:
        for ask in ("ledger", "requests", "registry"):
            with pytest.raises(NotFound):
                getattr(workspace, ask)
        with pytest.raises(NotFound):
            workspace.shards()
        for words in ({}, {"model": "a/1", "subject": "b"}):
            with pytest.raises(ParamsInvalid, match="either model or subject"):
                workspace.lineage(**words)
    assert [path.name for path in root.iterdir()] == ["params.yaml"]


# ---------------------------------------------------------------------- examples


def _examples() -> dict[str, doctest.DocTest]:
    """Every public name and public method of those whose methods are the interface."""
    finder = doctest.DocTestFinder(exclude_empty=False, recurse=False)
    found = {}
    for name in lethe.__all__:
        value = getattr(lethe, name)
        found[name] = finder.find(value, name)[0]
        for member, method in vars(value).items() if name == "Workspace" else ():
            if not member.startswith("_") and callable(method):
                found[f"{name}.{member}"] = finder.find(method, f"{name}.{member}")[0]
    return found


EXAMPLES = _examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_public_name_has_an_example_that_holds(
    name: str, request: pytest.FixtureRequest
) -> None:
    test = EXAMPLES[name]
    assert test.examples, f"{name} has no example"
    needs = any(re.search(r"\bpath\b", each.source) for each in test.examples)
    path = str(request.getfixturevalue("places")[0]) if needs else None
    _run(test, {"lethe": lethe, "path": path})


def test_the_page_of_the_notebook_does_what_it_says(finished: Workspace, tmp_path: Path) -> None:
    text = (PROJECT / "docs" / "notebook.md").read_text()
    copy = copy_workspace(finished, tmp_path / "notebook")
    key, _ = somebody(copy.root)
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "notebook.md", None, 0)
    assert len(test.examples) >= 12
    _run(test, {"path": str(copy.root), "key": key})


def _run(test: doctest.DocTest, names: dict[str, Any]) -> None:
    test.globs = dict(names)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


def test_a_command_on_another_folders_declarations_works_on_that_workspace(
    places: tuple[Path, Path], elsewhere: Path
) -> None:
    said = Workspace(elsewhere).lethe(
        "lineage", "--model", "readmission/1", "--params", str(places[0] / "params.yaml")
    )
    assert said.stdout.startswith("readmission/1 (ready)")
    assert list(elsewhere.iterdir()) == []
    with open_ledger(load_params(places[0] / "params.yaml"), create=False) as ledger:
        assert len(ledger.runs()) >= 1
