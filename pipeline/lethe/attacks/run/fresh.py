"""Were these people drawn before, in another run? Then both had one key, and so one noise.

A key that is written in code, or comes again from a copied machine, passes every look at one run:
each by itself is as good as random. Two runs of it are not, for they draw alike. So a digest of a
run's draws stays when its transcript goes. It is of draws that no two honest runs share but with a
probability of 1e-30, so that nobody can guess who was drawn by trying; where a run has not so many,
nothing stays, and nothing is seen.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

from lethe.attacks.run.draws import PREFIX
from lethe.attacks.statistics import Check, Counts, improbable
from lethe.core.files import write_whole

_ALIKE = 1e-30


def check_fresh(
    folder: Path, run_id: str, draws: Sequence[Counts], *, people: int, rate: float
) -> Check:
    """Looks for the digests of this run's draws among those of others, and leaves them there.

    Args:
        folder: of digests, each a file with the id of its run.
    """
    seen = False
    for digest in digests(draws, people=people, rate=rate):
        path = folder / digest
        if path.exists():
            seen |= path.read_text() != run_id
        else:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_whole(path, run_id.encode(), private=True)
    return improbable(
        f"{PREFIX}.fresh",
        0.0 if seen else 1.0,
        meaning="no other run of this workspace drew as this one did: each has a key of its own",
    )


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
