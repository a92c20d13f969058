"""The vault as one of the stores that an erasure goes through."""

from collections.abc import Iterator, Sequence

from lethe.core.outcomes import Outcome, Result, Traces
from lethe.stores.search.postgres import write_anew
from lethe.stores.store import Held, Person, Store
from lethe.stores.vault.database import REVEALS, SUBJECTS
from lethe.stores.vault.vault import Vault


class VaultStore(Store):
    """Who has which token; `url` is where the open vault is."""

    name = "vault"

    def __init__(self, vault: Vault, url: str) -> None:
        self._vault = vault
        self._url = url

    def trace(self, people: Sequence[Traces]) -> list[Traces]:
        tokens = self._tokens([each.key for each in people])
        return [
            Traces(each.key, token, each.identifiers)
            for each, token in zip(people, tokens, strict=True)
        ]

    def _tokens(self, keys: Sequence[str]) -> list[int | None]:
        return [None if token < 0 else token for token in self._vault.lookup(keys).tolist()]

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        for each in people:
            rows = self._vault.forget([each.traces.key])
            if rows:
                yield [Outcome(self.name, Result.ERASED, rows, (SUBJECTS.name,))]
            else:
                yield [Outcome(self.name, Result.ABSENT)]

    def overwrite(self, *, forgotten: bool) -> None:
        if forgotten:
            write_anew(self._url, [SUBJECTS.name, REVEALS.name])

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        there = Outcome(self.name, Result.PRESENT, 1, (SUBJECTS.name,), "the row is there")
        return [
            [Outcome(self.name, Result.ABSENT) if token is None else there]
            for token in self._tokens([each.traces.key for each in people])
        ]

    def export(self, person: Person) -> list[Held]:
        (token,) = self._tokens([person.traces.key])
        return [] if token is None else [Held(SUBJECTS.name, ({"token": token},))]

    def unseen(self) -> tuple[str, ...]:
        return ("backups of the vault",)
