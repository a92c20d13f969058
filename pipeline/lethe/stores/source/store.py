"""The source as one of the stores that an erasure goes through."""

import datetime as dt
from collections.abc import Callable, Iterator, Sequence

from lethe.config.params import Params
from lethe.core.errors import LetheError
from lethe.core.outcomes import Outcome, Traces
from lethe.stores.source.compact import compact_source
from lethe.stores.source.erase import STORE, erase_from_source
from lethe.stores.source.identifiers import traces_of
from lethe.stores.source.mentions import Mentioned, find_mentions
from lethe.stores.source.rewrite_files import readable
from lethe.stores.source.trace import RowTrace
from lethe.stores.source.verify import verify_sources
from lethe.stores.source.writer import open_writer
from lethe.stores.store import Held, Person, Store


class SourceStore(Store):
    """The tables or files at `source.url`."""

    name = STORE

    def __init__(self, params: Params, *, clock: Callable[[], dt.datetime]) -> None:
        self._params = params
        self._clock = clock

    def trace(self, people: Sequence[Traces]) -> list[Traces]:
        return traces_of(self._params, [(each.key, each.token) for each in people])

    def forget(self, people: Sequence[Person]) -> Iterator[list[Outcome]]:
        named = self._mentioned([each.traces for each in people])
        for each in people:
            yield [
                erase_from_source(
                    self._params,
                    each.traces,
                    now=self._clock(),
                    compact=False,
                    mentioned=named.get(each.traces.key),
                )
            ]

    def _mentioned(self, people: Sequence[Traces]) -> dict[str, Mentioned]:
        """Where others' texts name these people, in one look for all of them."""
        try:
            return find_mentions(self._params, people) if len(people) > 1 else {}
        except LetheError:
            return {}  # each is looked for alone then, and the reason given for each

    def overwrite(self, *, forgotten: bool) -> None:
        compact_source(self._params)  # knows by marks of its own whether there is anything

    def look(self, people: Sequence[Person]) -> list[list[Outcome]]:
        return [[seen] for seen in verify_sources(self._params, [each.traces for each in people])]

    def export(self, person: Person) -> list[Held]:
        """Every row about the person, by table, as an erasure would find them."""
        with (
            readable(self._params) as path,
            open_writer(self._params, writing=False, path=path) as writer,
        ):
            key = person.traces.key
            trace = RowTrace(
                writer, self._params, key, now=self._clock(), also_identifiers=True
            ).run()
            return [
                Held(table, tuple(dict(row.values) for row in rows.values()))
                for table, rows in sorted(trace.mine.items())
                if rows
            ]

    def unseen(self) -> tuple[str, ...]:
        return (
            "tables and columns that params.yaml does not declare",
            "backups, replicas and logs of the database, and copies of its files",
        )
