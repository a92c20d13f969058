"""How many subjects a second the vault takes in and finds again."""

import os
import tempfile
import time
from pathlib import Path

from benchmarks.timing import Row
from lethe.stores.vault.vault import Vault

SUBJECTS = 300_000


def measure() -> list[Row]:
    keys = [f"P{number:09d}" for number in range(SUBJECTS)]
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{Path(folder) / 'vault.db'}"
        with Vault.open(url, os.urandom(32)) as vault:
            start = time.perf_counter()
            vault.tokens(keys)
            made = SUBJECTS / (time.perf_counter() - start)
            start = time.perf_counter()
            vault.lookup(keys)
            found = SUBJECTS / (time.perf_counter() - start)
    return [
        ("vault: new subjects a second", f"{made:,.0f}", ""),
        ("vault: subjects found a second", f"{found:,.0f}", ""),
    ]
