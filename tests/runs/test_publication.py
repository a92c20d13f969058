"""Publication: one commit that names what was registered, or nothing at all."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pyroaring import BitMap

from lethe.config import workspace
from lethe.config.params import load_params, resolve_secret
from lethe.core.errors import Busy, LetheError, PublicationRefused
from lethe.runs import publication, service
from lethe.runs.publication import publish, publish_own
from lethe.stores.dvc.git import parse_lock
from lethe.stores.dvc.purge import purge_history
from lethe.stores.dvc.survey import md5_of
from lethe.stores.dvc.worktree import Worktree
from lethe.stores.requests.requests import Requests
from tests.past_pipeline import (
    ADA,
    BO,
    CLEO,
    dvc,
    files,
    git,
    holders,
    people,
    run_pipeline,
    tokens_in,
)
from tests.released_home import Home, made


def nobody(_: BitMap) -> None:
    """Everybody agrees to this day."""
    return


def second(home: Home) -> publication.Published:
    return publish(home.root, "run-2", home.second, objection=nobody)


def text(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_publication_is_one_commit_that_changes_the_lock_alone(released: Home) -> None:
    root = released.root
    before = text(root, "rev-parse", "HEAD")
    made_of = second(released)
    assert made_of.version == "wards/2"
    assert text(root, "rev-parse", "main", "main~1").split() == [made_of.commit, before]
    assert text(root, "show", "--format=%an %cn %s", "--name-only", "HEAD").split("\n\n") == [
        "lethe lethe Release wards/2 of run-2",
        "dvc.lock",
    ]
    assert text(root, "show", "HEAD:dvc.lock").encode() + b"\n" == released.second["dvc.lock"]
    assert text(root, "status", "--porcelain") == ""


def _with_reports(home: Home) -> Path:
    """As the project has it: reports are git's."""
    root = home.root
    ignored = (root / ".gitignore").read_text().replace("\n/reports/\n", "\n")
    (root / ".gitignore").write_text(ignored)
    (root / "reports" / "old.json").write_text("{}")
    text(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "Reports")
    return root


def _reports_of(root: Path, revision: str) -> dict[str, bool]:
    """The reports in a commit: whether each is the one that the commit's lock names."""
    lock = subprocess.run(
        ["git", "show", f"{revision}:dvc.lock"], cwd=root, check=True, capture_output=True
    ).stdout
    named = {path: md5 for each in parse_lock(lock) for path, md5 in each.outs.items()}
    listed = text(root, "ls-tree", "-r", "--name-only", revision, "reports/").split()
    return {
        path: named.get(path)
        == md5_of(
            subprocess.run(
                ["git", "show", f"{revision}:{path}"], cwd=root, check=True, capture_output=True
            ).stdout
        )
        for path in listed
    }


def test_a_release_has_the_lock_and_the_reports_of_one_version_in_one_commit(
    released: Home,
) -> None:
    root = _with_reports(released)
    made_of = second(released)
    assert text(root, "rev-parse", "main") == made_of.commit
    reports = _reports_of(root, "main")
    assert {"reports/register.json", "reports/train.json"} <= reports.keys()
    assert [path for path, is_its in reports.items() if not is_its] == ["reports/old.json"]
    assert '"version": 2' in text(root, "show", "main:reports/register.json")
    assert text(root, "status", "--porcelain") == ""
    assert second(released).commit is None


def test_a_report_of_another_version_is_in_no_release(released: Home) -> None:
    root = _with_reports(released)
    second(released)
    (root / "reports" / "train.json").write_text('{"n": 0}')
    text(root, "add", "reports/train.json")
    git(root, "commit", "--quiet", "--message", "Somebody's")
    made_of = publish_own(root)
    assert made_of is not None and made_of.commit == text(root, "rev-parse", "main")
    assert "reports/train.json" not in _reports_of(root, "main")
    assert (root / "reports" / "train.json").read_text() == '{"n": 0}'
    assert publish_own(root) is None


def test_reports_that_were_not_committed_with_their_lock_are_committed_later(
    released: Home,
) -> None:
    root = _with_reports(released)
    second(released)
    text(root, "rm", "--cached", "--quiet", "reports/train.json")
    git(root, "commit", "--quiet", "--message", "Forgotten")
    assert publish_own(root) is not None
    assert _reports_of(root, "main")["reports/train.json"]
    assert text(root, "status", "--porcelain") == ""


def test_what_is_published_lies_in_home_and_dvc_has_nothing_to_say_of_it(released: Home) -> None:
    second(released)
    assert tokens_in(released.root / workspace.SUBJECTS) == BitMap([ADA, BO, CLEO])
    assert "ward-of-cleo" in (released.root / "model" / "model.json").read_text()
    assert made(released.root) == released.second
    people(released.root, ADA, BO, CLEO)  # as the worktree's source was
    assert dvc(released.root, "status").split() == ["register:", "always", "changed"]


def test_published_twice_is_published_once(released: Home) -> None:
    second(released)
    state = files(released.root)
    again = second(released)
    assert (again.version, again.commit) == ("wards/2", None)
    assert files(released.root) == state


def test_what_somebody_has_staged_or_is_writing_stays_theirs(released: Home) -> None:
    root = released.root
    (root / "README.md").write_text("Staged.\n")
    (root / "new.txt").write_text("Staged.\n")
    text(root, "add", "README.md", "new.txt")
    (root / "README.md").write_text("Written since.\n")
    second(released)
    assert text(root, "diff", "--cached", "--name-only").split() == ["README.md", "new.txt"]
    assert text(root, "diff", "--name-only").split() == ["README.md"]
    assert text(root, "show", "--format=", "--name-only", "HEAD") == "dvc.lock"


def test_no_hook_runs_and_the_committer_is_gits_own_where_it_knows_one(released: Home) -> None:
    root = released.root
    for name in ("pre-commit", "commit-msg", "post-commit", "reference-transaction"):
        hook = root / ".git" / "hooks" / name
        hook.write_text("#!/bin/sh\ntouch ran\nexit 1\n" if "commit" in name else "#!/bin/sh\n")
        hook.chmod(0o755)
    text(root, "config", "user.name", "Ward")
    text(root, "config", "user.email", "ward@example.org")
    second(released)
    assert text(root, "log", "-1", "--format=%an <%ae>") == "Ward <ward@example.org>"
    assert not (root / "ran").exists()


def test_a_first_lock_that_git_does_not_know_yet_is_committed(released: Home) -> None:
    root = released.root
    text(root, "rm", "--quiet", "--cached", "dvc.lock")
    text(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "-m", "Without")
    (root / "dvc.lock").unlink()
    assert second(released).commit
    assert text(root, "status", "--porcelain") == ""


def test_a_lock_that_home_had_not_committed_is_kept_in_its_history(released: Home) -> None:
    root = released.root
    people(root, BO)
    run_pipeline(root)
    own = (root / "dvc.lock").read_bytes()
    second(released)
    assert text(root, "show", "main~1:dvc.lock").encode() + b"\n" == own
    assert text(root, "show", "main:dvc.lock").encode() + b"\n" == released.second["dvc.lock"]


# ---------------------------------------------------------------------- refused


def _detached(home: Home) -> None:
    text(home.root, "checkout", "--quiet", "--detach")


def _merging(home: Home) -> None:
    blob = text(home.root, "rev-parse", "HEAD:dvc.lock")
    lines = "".join(f"100644 {blob} {stage}\tdvc.lock\n" for stage in (1, 2, 3))
    text(home.root, "rm", "--quiet", "--cached", "dvc.lock")
    subprocess.run(
        ["git", "update-index", "--index-info"], cwd=home.root, input=lines.encode(), check=True
    )


def _not_registered(home: Home) -> None:
    home.second.clear()
    home.second.update(home.half)


def _without_a_lock(home: Home) -> None:
    del home.second["dvc.lock"]


def _another_report(home: Home) -> None:
    home.second["reports/register.json"] = b'{"model": "wards", "version": 3}'


def _erased_since(home: Home) -> None:
    purge_history(home.root, BitMap([CLEO]))


def _newer_is_released(home: Home) -> None:
    (home.root / "version").write_text("3")
    run_pipeline(home.root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_detached, "no branch checked out"),
        (_merging, "merge that is not resolved"),
        (_not_registered, "^register: not passed"),
        (_without_a_lock, "no stage has run"),
        (_another_report, "reports/register.json is not the one"),
        (_erased_since, "cache does not have data/manifest.roaring, data/shards, data/subjects"),
        (_newer_is_released, "wards/3 is released already, and this run's wards/2 is older"),
    ],
)
def test_what_cannot_be_released_is_refused_and_home_is_as_it_was(
    released: Home, change: Callable[[Home], None], said: str
) -> None:
    mine = Home(released.root, dict(released.second), released.half)
    change(mine)
    state = files(mine.root)
    with pytest.raises(PublicationRefused, match=said) as refused:
        second(mine)
    assert refused.value.exit_code == 34
    assert files(mine.root) == state


def test_somebody_in_the_shards_who_must_not_be_used_is_refused_held_out_or_not(
    released: Home,
) -> None:
    asked: list[BitMap] = []

    def objection(subjects: BitMap) -> str:
        asked.append(subjects)
        return "1 people have withdrawn."

    state = files(released.root)
    with pytest.raises(PublicationRefused, match="1 people have withdrawn"):
        publish(released.root, "run-2", released.second, objection=objection)
    assert asked == [BitMap([ADA, BO, CLEO])]
    assert files(released.root) == state


def test_who_was_erased_meanwhile_does_not_come_back_by_a_publication(released: Home) -> None:
    root = released.root
    purge_history(root, BitMap([CLEO]))
    (root / "source").unlink()
    with pytest.raises(PublicationRefused):
        second(released)
    assert holders(root, token=CLEO) == []
    assert CLEO not in tokens_in(root / workspace.SUBJECTS)


# ---------------------------------------------------------------------- alone, and cut short


def test_a_run_in_home_a_further_publication_or_an_erasure_is_waited_for(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Worktree(released.root).alone(), pytest.raises(Busy):
        second(released)
    monkeypatch.chdir(released.root)
    params = load_params()
    with Requests.open(resolve_secret(params.stores.ledger)) as requests:
        with requests.alone(), pytest.raises(Busy, match="erase run"):
            service.publish_home(params)
        with service._alone(params), pytest.raises(Busy), requests.alone():
            pass
    assert service.publish_home(params) is None


@pytest.mark.parametrize("step", ["commit_files", "check_out"])
def test_a_publication_that_was_cut_is_finished_by_the_next(
    released: Home, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def cut(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(publication, step, cut)
        second(released)
    second(released)
    assert text(released.root, "show", "--format=%s", "--name-only", "HEAD").split("\n\n") == [
        "Release wards/2 of run-2",
        "dvc.lock",
    ]
    assert text(released.root, "rev-list", "--count", "HEAD") == "3"
    assert made(released.root) == released.second
    assert "ward-of-cleo" in (released.root / "model" / "model.json").read_text()


def test_a_branch_that_moved_meanwhile_is_left_to_the_next_time(
    released: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publication, "commit_files", lambda *_, **__: False)
    with pytest.raises(Busy, match="moved meanwhile"):
        second(released)


# ---------------------------------------------------------------------- HOME's own lock


def test_what_a_worktree_in_home_released_is_committed(released: Home) -> None:
    assert publish_own(released.root) is None, "nothing changed"
    people(released.root, BO)
    (released.root / "version").write_text("2")
    run_pipeline(released.root)
    done = publish_own(released.root)
    assert done is not None and done.version == "wards/2"
    assert text(released.root, "show", "--format=", "--name-only", "HEAD") == "dvc.lock"
    assert publish_own(released.root) is None


def test_what_the_gate_has_not_seen_stays_uncommitted(released: Home) -> None:
    people(released.root, BO)
    run_pipeline(released.root, "train")
    assert publish_own(released.root) is None
    assert text(released.root, "status", "--porcelain", "dvc.lock") == "M dvc.lock"


def test_after_an_erasure_the_commit_names_what_is_left(released: Home) -> None:
    purge_history(released.root, BitMap([ADA]))
    done = publish_own(released.root)
    assert done is not None and done.commit is not None
    assert text(released.root, "show", "--format=", "--name-only", "HEAD") == "dvc.lock"
    text(released.root, "stash", "--quiet")
    dvc(released.root, "pull", "--quiet")
    assert tokens_in(released.root / workspace.SUBJECTS) == BitMap([BO])


def test_without_a_branch_an_erasures_lock_is_refused_by_the_reason(released: Home) -> None:
    purge_history(released.root, BitMap([ADA]))
    text(released.root, "checkout", "--quiet", "--detach")
    with pytest.raises(PublicationRefused, match="no branch checked out"):
        publish_own(released.root)


def test_a_folder_outside_of_git_is_refused_by_the_reason(released: Home) -> None:
    (released.root / ".git").rename(released.root.parent / "away")
    with pytest.raises(LetheError, match="in no git repository"):
        second(released)
