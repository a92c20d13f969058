"""The ref of a run on the git remote: the second to swap it is refused, the release stays."""

import subprocess
from pathlib import Path

import pytest

from lethe.core.errors import RunEnded, StoreUnavailable
from lethe.runs.pods.refs import PREFIX, Refs, note_remote, remote_of
from tests.past_pipeline import git

LOCK = {"dvc.lock": b"schema: '2.0'\n", "reports/train.json": b"{}\n"}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A release of two commits, the workspace a folder of its repository, and an empty remote."""
    root = tmp_path / "home"
    (root / "project").mkdir(parents=True)
    git(root, "init", "--quiet", "--initial-branch=main")
    for content in ("one", "two"):
        (root / "project" / "code.py").write_text(content)
        git(root, "add", "--all")
        git(root, "commit", "--quiet", "--message", content)
    git(root, "init", "--quiet", "--bare", str(tmp_path / "git.git"))
    return root


def _refs(home: Path) -> Refs:
    return Refs(home, str(home.parent / "git.git"))


def _pod(home: Path, name: str = "pod") -> Refs:
    folder = home.parent / name
    folder.mkdir()
    git(folder, "init", "--quiet")
    return Refs(folder, str(home.parent / "git.git"), depth=2)


def _base(home: Path) -> str:
    return git(home, "rev-parse", "HEAD")


def test_a_run_is_found_in_an_empty_folder_as_it_was_begun(home: Path) -> None:
    begun = _refs(home).begin("a", base=_base(home), below="project/", files=LOCK)
    found = _pod(home).find("a")
    assert found == begun
    assert found is not None
    assert (found.base, found.state, found.files) == (_base(home), "idle", LOCK)
    assert found.lock == LOCK["dvc.lock"]
    remote = home.parent / "git.git"
    assert git(remote, "show", f"{PREFIX}a:project/code.py") == "two", "the release's own files"
    assert git(remote, "show", f"{PREFIX}a:project/dvc.lock") == "schema: '2.0'"


def test_every_step_stands_on_the_release_and_none_on_another(home: Path) -> None:
    _refs(home).begin("a", base=_base(home), below="", files=LOCK)
    pod = _pod(home)
    begun = pod.find("a")
    assert begun is not None
    for number in range(3):
        begun = pod.swap(begun, "pushing", {"dvc.lock": str(number).encode()})
    assert git(home.parent / "git.git", "rev-parse", f"{PREFIX}a^") == _base(home)
    again = _refs(home).find("a")
    assert again is not None
    assert (again.commit, again.state, again.lock) == (begun.commit, "pushing", b"2")
    assert git(home, "rev-list", "--count", f"{PREFIX}a") == "3", "two of the release, and one"


def test_of_two_that_swap_the_same_the_second_is_refused_and_changes_nothing(home: Path) -> None:
    _refs(home).begin("a", base=_base(home), below="", files=LOCK)
    one, other = _pod(home, "one"), _pod(home, "other")
    seen, same = one.find("a"), other.find("a")
    assert seen is not None and same is not None
    revoked = one.swap(seen, "revoked")
    with pytest.raises(RunEnded, match="Run a is not what it was"):
        other.swap(same, "pushing")
    with pytest.raises(RunEnded):
        other.end(same)
    with pytest.raises(RunEnded):
        other.begin("a", base=same.base, below="", files=LOCK)
    assert _refs(home).find("a") == revoked


def test_an_ended_run_is_forgotten_everywhere_and_others_stay(home: Path) -> None:
    refs = _refs(home)
    begun = refs.begin("a", base=_base(home), below="", files=LOCK)
    refs.begin("b", base=_base(home), below="", files={})
    elsewhere = home.parent / "elsewhere"
    git(home.parent, "clone", "--quiet", str(home), str(elsewhere))
    other = Refs(elsewhere, str(home.parent / "git.git"))
    assert [each.run for each in other.all()] == ["a", "b"]
    refs.end(begun)
    assert refs.find("a") is None
    assert refs.peek("a") == ""
    assert [each.run for each in other.all()] == ["b"]
    assert PREFIX + "a" not in git(elsewhere, "for-each-ref", "--format=%(refname)")


def test_a_remote_that_does_not_answer_is_named_without_its_address(home: Path) -> None:
    away = Refs(home, "ssh://somebody:secret@127.0.0.1:1/runs.git")
    for deed in (lambda: away.find("a"), away.all):
        with pytest.raises(StoreUnavailable) as raised:
            deed()
        assert "secret" not in str(raised.value)
        assert "127.0.0.1" not in str(raised.value)
    assert away.peek("a") is None, "nobody answers: nothing is known"
    begun = _refs(home).begin("a", base=_base(home), below="", files=LOCK)
    with pytest.raises(StoreUnavailable):
        away.swap(begun, "idle")


def test_nothing_but_the_runs_ref_is_on_the_remote(home: Path) -> None:
    _refs(home).begin("a", base=_base(home), below="", files=LOCK)
    names = git(home.parent / "git.git", "for-each-ref", "--format=%(refname)").split()
    assert names == [f"{PREFIX}a"]


def test_a_workspace_knows_where_its_runs_are_from_the_first_on(home: Path) -> None:
    assert remote_of(home) is None
    note_remote(home, "runs")
    note_remote(home, "runs")
    assert remote_of(home) == "runs"
    said = subprocess.run(
        ["git", "config", "--get-all", "lethe.walks"], cwd=home, capture_output=True, text=True
    )
    assert said.stdout.split() == ["runs"]
