"""Were these people drawn before, in another run? Then both had one key, and so one noise.

A key that is written in code, or comes again from a copied machine, passes every look at one run:
each by itself is as good as random. Two runs of it are not, for they draw alike. So a digest of a
run's draws stays when its transcript goes. It is of draws that no two honest runs share but with a
probability of 1e-30, so that nobody can guess who was drawn by trying; where a run has not so many,
nothing stays, and nothing is seen. Nor is a run that was audited over another folder: each pod has
its own, and so compares with nobody. The check says how many digests it was compared with.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lethe.attacks.run.draws import PREFIX
from lethe.attacks.statistics import Check, Counts, improbable
from lethe.core.files import write_whole

_ALIKE = 1e-30
KEPT = 10_000  # digests, the newest; two a run


def check_fresh(
    folder: Path, run_id: str, draws: Sequence[Counts], *, people: int, rate: float
) -> Check:
    """Looks for the digests of this run's draws among those of others, and leaves them there.

    Args:
        folder: of digests, each a file with the id of its run.
    """
    own = digests(draws, people=people, rate=rate)
    others = len({path.name for path in folder.iterdir()} - {*own}) if folder.is_dir() else 0
    seen = False
    for digest in own:
        path = folder / digest
        try:
            alike = path.read_text() != run_id
        except FileNotFoundError:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(path, run_id.encode(), private=True)
        else:
            seen |= alike
            others += alike
    _bound(folder)
    return improbable(
        f"{PREFIX}.fresh",
        0.0 if seen else 1.0,
        meaning="no other run whose digests are in this workspace's .lethe/drawn drew as this one "
        f"did: each has a key of its own. It was compared with {others} of them"
        f"{'' if own else ', and has too few draws to leave one'}",
    )


def _bound(folder: Path) -> None:
    """Removes the oldest digests beyond `KEPT`."""
    times = []
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # another audit removed it
            times.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(times, reverse=True)[KEPT:]:
        path.unlink(missing_ok=True)


def digests(draws: Sequence[Counts], *, people: int, rate: float) -> list[str]:
    """Of the first draw among as many places as are enough; and of the whole run.

    The first is the same for one key though people came or went since.
    """
    alike = rate**2 + (1 - rate) ** 2  # that one person's two coins fall alike
    if alike >= 1:
        return []
    enough = math.ceil(math.log(_ALIKE) / math.log(alike))
    found = []
    if enough <= people:
        found.append(_digest(f"first {enough} {rate!r}", [draws[0][draws[0] < enough]]))
    if enough <= people * len(draws):
        found.append(_digest(f"all {people} {rate!r}", draws))
    return found


def _digest(what: str, draws: Sequence[Counts]) -> str:
    found = hashlib.sha256(what.encode())
    for drawn in draws:
        found.update(len(drawn).to_bytes(8, "little"))
        found.update(drawn.astype("<u4").tobytes())
    return found.hexdigest()
