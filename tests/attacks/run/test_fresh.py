"""Two runs of one key draw alike: the second is seen, whatever it trained on since."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from lethe.attacks.run import fresh
from lethe.attacks.run.fresh import check_fresh, digests
from lethe.privacy.noise.sampling import Keystream, poisson_draw

Draws = list[npt.NDArray[np.int64]]


def _draws(people: int, rate: float, steps: int, *, key: bytes | None = None) -> Draws:
    """As a run draws them: noise of the same stream between two draws."""
    stream = Keystream.from_system() if key is None else Keystream(key)
    found = []
    for _ in range(steps):
        found.append(poisson_draw(stream, people, rate))
        stream.uint64(100)
    return found


def _passes(folder: Path, run: str, draws: Sequence[npt.NDArray[np.int64]], people: int) -> bool:
    return check_fresh(folder, run, draws, people=people, rate=0.1).passed


def test_two_runs_of_one_key_are_seen_though_people_left_in_between(tmp_path: Path) -> None:
    known = bytes(range(32))
    assert _passes(tmp_path, "one", _draws(400, 0.1, 5, key=known), 400)
    assert _passes(tmp_path, "one", _draws(400, 0.1, 5, key=known), 400)  # audited again
    for people in (400, 360, 900):
        assert not _passes(tmp_path, f"of {people}", _draws(people, 0.1, 5, key=known), people)


def test_so_are_small_ones(tmp_path: Path) -> None:
    known = bytes(range(32))
    assert _passes(tmp_path, "one", _draws(50, 0.1, 30, key=known), 50)
    assert not _passes(tmp_path, "two", _draws(50, 0.1, 30, key=known), 50)


def test_honest_runs_are_not(tmp_path: Path) -> None:
    assert all(_passes(tmp_path, f"{n}", _draws(400, 0.1, 3), 400) for n in range(40))
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 80
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in names)


@pytest.mark.parametrize(("people", "rate", "steps"), [(20, 0.1, 3), (10, 1e-6, 9), (90, 1.0, 9)])
def test_draws_that_could_be_guessed_leave_nothing(people: int, rate: float, steps: int) -> None:
    assert digests(_draws(people, rate, steps), people=people, rate=rate) == []


def test_it_says_with_how_many_it_was_compared(tmp_path: Path) -> None:
    """In a pod that is with none, which is another thing than with all of a workspace's."""
    said = []
    for number in range(3):
        found = check_fresh(tmp_path, f"{number}", _draws(400, 0.1, 3), people=400, rate=0.1)
        said.append(found.meaning.partition("compared with ")[2])
    assert said == ["0 of them", "2 of them", "4 of them"]
    found = check_fresh(tmp_path, "few", _draws(20, 0.1, 3), people=20, rate=0.1)
    assert found.passed and "4 of them, and has too few draws to leave one" in found.meaning


def test_the_newest_digests_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fresh, "KEPT", 6)
    known = bytes(range(32))
    made = [_draws(400, 0.1, 3, key=bytes([n]) * 32) for n in range(5)]
    for number, draws in enumerate([*made, _draws(400, 0.1, 3, key=known)]):
        assert _passes(tmp_path, f"{number}", draws, 400)
        for name in digests(draws, people=400, rate=0.1):
            os.utime(tmp_path / name, (number, number))
    assert _passes(tmp_path, "new", _draws(400, 0.1, 3), 400)
    left = {path.read_text() for path in tmp_path.iterdir()}
    assert left == {"4", "5", "new"}
    assert not _passes(tmp_path, "again", _draws(400, 0.1, 3, key=known), 400)
