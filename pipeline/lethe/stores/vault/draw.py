"""Drawing tokens: uniform over the vault's capacity, and never one that was used before."""

import os
from collections.abc import Callable

import numpy as np
import sqlalchemy as sa

from lethe.core.errors import LetheError
from lethe.stores.vault.database import RETIRED, SUBJECTS, count, matching


def draw(
    connection: sa.Connection,
    wanted: int,
    capacity: int,
    retired_entries: Callable[[list[int]], list[bytes]],
) -> np.ndarray:
    """Unused tokens, uniform without replacement, in random order."""
    retired = count(connection, RETIRED)
    used = count(connection, SUBJECTS) + retired
    if used + wanted > capacity // 2:
        raise LetheError(
            f"The vault has {capacity} tokens and {used} in use; {wanted} more would be "
            "over half, where tokens stop hiding who came when. Start a vault of more capacity."
        )
    drawn: list[np.ndarray] = []
    seen = np.zeros(capacity, dtype=np.bool_)
    while wanted:
        fresh = distinct(uniform_below(capacity, wanted))
        fresh = fresh[~seen[fresh]]
        seen[fresh] = True
        taken = matching(connection, SUBJECTS.c.token, fresh.tolist())
        free = np.ones(capacity, dtype=np.bool_)
        free[[token for (token,) in taken]] = False
        fresh = fresh[free[fresh]]
        if retired:
            entries = retired_entries(fresh.tolist())
            old = {row[0] for row in matching(connection, RETIRED.c.entry, entries)}
            fresh = fresh[[entry not in old for entry in entries]]
        drawn.append(fresh)
        wanted -= len(fresh)
    return np.concatenate(drawn) if drawn else np.empty(0, dtype=np.int64)


def uniform_below(limit: int, count: int) -> np.ndarray:
    """Uniform integers in [0, limit) of the operating system's generator, by rejection."""
    mask = (1 << (limit - 1).bit_length()) - 1
    accepted = np.empty(0, dtype=np.int64)
    while len(accepted) < count:
        random = np.frombuffer(os.urandom(4 * count), dtype="<u4").astype(np.int64) & mask
        accepted = np.concatenate([accepted, random[random < limit]])
    return accepted[:count]


def distinct(values: np.ndarray) -> np.ndarray:
    """Each value once, by first occurrence: sorted tokens would reveal who came when."""
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]
