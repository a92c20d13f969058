"""Guesses about a source that nobody has declared: who the people are, and what leads to them.

Everything here comes from facts of `survey`, which hold no value. A guess is right if a person
says so: it stands in a draft beside its reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lethe.config.tables import Link
from lethe.stores.source.signs import NAME, PEOPLE, STAFF, plain_name, shown, singular, words
from lethe.stores.source.survey import SeenColumn, SeenTable

Tables = Mapping[str, SeenTable]
_GENERIC = frozenset({"id", "key", "code", "nr", "no", "number", "uuid", "guid", "pk"})
_KEY_ENDS = ("id", "key", "nr", "nbr", "number", "uuid", "guid", "code")
_PURPOSE = frozenset({"purpose", "purposes", "asked", "topic", "scope"})
_ANSWER = frozenset(
    {"answer", "status", "decision", "consent", "said", "choice", "granted", "agreed", "response"}
)
_TIMES = ("date", "timestamp")
_VERSIONS = frozenset(
    {"valid", "validfrom", "validto", "version", "revision", "effective", "since", "until", "from"}
)


@dataclass(frozen=True)
class Guess:
    """A table or column, why it was taken, and what else might have been meant."""

    name: str | None
    why: str
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Consents:
    """Where answers seem to be."""

    table: str
    subject: tuple[str, ...]
    purpose: str
    answer: str
    time: str

    @property
    def columns(self) -> tuple[str, str, str]:
        return self.purpose, self.answer, self.time


@dataclass(frozen=True)
class Guesses:
    """All that a draft says beside the schema itself.

    `key`: the column that names people, or `keys` where several do together. `links`: of each
    table, and whether the database itself has the link. `about`: the tables whose rows lead to a
    person, the people's own among them.
    """

    people: Guess
    key: Guess
    links: Mapping[str, Sequence[tuple[Link, bool]]]
    about: frozenset[str]
    records: Guess
    consent: Consents | None
    unwritten: Mapping[str, Sequence[Link]] = field(default_factory=dict)
    keys: tuple[str, ...] = ()


def guess(found: Sequence[SeenTable], people: str | None = None) -> Guesses:
    """What the tables of a source seem to be.

    Args:
        people: the table of people, where somebody said which.
    """
    tables = {each.name: each for each in found}
    keys = {name: _key(table).name for name, table in tables.items()}
    links = {name: list(_links(table, tables, keys)) for name, table in tables.items()}
    chosen = _people(tables, keys, links) if people is None else Guess(people, "as you said")
    unwritten = {n: [each for each, _ in made if not _writable(each)] for n, made in links.items()}
    links = {n: [each for each in made if _writable(each[0])] for n, made in links.items()}
    about = _leading_to(chosen.name, links)
    key, together = Guess(None, ""), tuple[str, ...]()
    if chosen.name is not None:
        key = _key(tables[chosen.name])
        together = _together(tables[chosen.name], links)
    consent = _consent(tables, links, chosen.name, about, together or (str(key.name),))
    return Guesses(
        people=chosen,
        key=key,
        links=links,
        about=about,
        records=_records(tables, links, chosen.name, about, consent),
        consent=consent,
        unwritten=unwritten,
        keys=together,
    )


def _together(
    table: SeenTable, links: Mapping[str, Sequence[tuple[Link, bool]]]
) -> tuple[str, ...]:
    """The columns that name people together: a primary key that the database's own links are to."""
    key = table.primary_key
    pointed = any(
        sure and link.table == table.name and set(link.references) == set(key)
        for made in links.values()
        for link, sure in made
    )
    return key if len(key) > 1 and pointed and not _is_history(table) else ()


def _is_history(table: SeenTable) -> bool:
    """Whether a table has several rows of one person, each from some time on."""
    several = len(table.primary_key) > 1
    parts = [table.column(name) for name in table.primary_key]
    return several and any(
        each.kind in _TIMES or bool(_VERSIONS & set(words(each.name))) for each in parts
    )


def _key(table: SeenTable) -> Guess:
    """The column that distinguishes a table's rows, by the database's word if it has one."""
    if len(table.primary_key) == 1:
        return Guess(table.primary_key[0], "its primary key")
    if len(table.primary_key) > 1:
        several = ", ".join(map(shown, table.primary_key))
        return Guess(
            None,
            f"its primary key has several columns ({several}); which of them name people, alone or "
            "together as a list?",
        )
    kept = sorted(next(iter(each)) for each in table.unique if len(each) == 1)
    if kept:
        return Guess(kept[0], "the database keeps it unique", tuple(kept[1:]))
    own = singular(plain_name(table.name))
    named = [
        each
        for each in table.columns
        if _is_key_name(each.name) and each.kind not in _TIMES and each.unique
    ]
    first = [each for each in named if plain_name(each.name) in ("id", f"{own}id", f"{own}no")]
    for each in first or named:
        return Guess(each.name, "by its name, and no value was seen twice")
    return Guess(None, "no column is unique; which one distinguishes people?")


def _is_key_name(name: str) -> bool:
    return plain_name(name).endswith(_KEY_ENDS)


def _links(
    table: SeenTable, tables: Tables, keys: Mapping[str, str | None]
) -> Iterator[tuple[Link, bool]]:
    """What rows of a table point at: the database's own links, then what names suggest."""
    linked: set[str] = set()
    for each in table.foreign_keys:
        if each.table in tables:
            linked.update(each.columns)
            yield each, True
    for column in table.columns:
        if column.name in linked or column.kind in (*_TIMES, "boolean", "real", "time"):
            continue
        if target := _named_target(table, column, tables, keys):
            yield Link(columns=(column.name,), table=target, references=(str(keys[target]),)), False


def _named_target(
    table: SeenTable, column: SeenColumn, tables: Tables, keys: Mapping[str, str | None]
) -> str | None:
    """The other table whose key a column has the name of; None if it is none's, or several'."""
    name, own = plain_name(column.name), keys[table.name] == column.name
    found = []
    for other, key in keys.items():
        if other == table.name or key is None:
            continue
        one = singular(plain_name(other))
        names = {one + plain_name(key), f"{one}id"}
        if plain_name(key) not in _GENERIC and not own:
            names.add(plain_name(key))
        if name in names - _GENERIC:
            found.append(other)
    named = [each for each in found if name.startswith(singular(plain_name(each)))]
    found = named or found
    return found[0] if len(found) == 1 else None


def _writable(link: Link) -> bool:
    """Whether `params.yaml` can say it: there, dots and commas stand between names."""
    return not any(set(".,") & set(name) for name in (link.table, *link.columns, *link.references))


def _people(
    tables: Tables, keys: Mapping[str, str | None], links: Mapping[str, list[tuple[Link, bool]]]
) -> Guess:
    scores: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for name, table in tables.items():
        said = {singular(word) for word in words(name)}
        signs = sorted({each.sign for each in table.columns if each.sign})
        clear = [sign for sign in signs if sign != NAME or len(signs) > 1]
        pointing = sum(
            any(link.table == name for link, _ in made)
            for other, made in links.items()
            if other != name
        )
        if not (said & PEOPLE or clear) or _is_history(table):
            continue
        named = 4 if said & PEOPLE else 1 if said & STAFF else 0
        scores[name] = named + min(2 * len(signs), 8) + min(pointing, 3) + (keys[name] is not None)
        why = [f"it has {', '.join(signs)}"] if signs else []
        why += ["its name says people"] if said & PEOPLE else []
        why += [f"{pointing} other tables point at it"] if pointing else []
        reasons[name] = "; ".join(why)
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    if ranked:
        return Guess(ranked[0], reasons[ranked[0]], tuple(ranked[1:4]))
    for name, table in tables.items():
        for column in table.columns:
            said = {singular(word) for word in words(column.name)}
            if said & PEOPLE and _is_key_name(column.name):
                where = f"{shown(name)}.{shown(column.name)}"
                return Guess(
                    None,
                    f"which table has one row a person? {where} seems to number people; make a "
                    "table, view or file that has each of them once",
                )
    if len(tables) == 1:
        return Guess(next(iter(tables)), "the only table")
    return Guess(None, "which table has one row a person? None looks like it")


def _leading_to(people: str | None, links: Mapping[str, list[tuple[Link, bool]]]) -> frozenset[str]:
    found = {people} if people is not None else set()
    while True:
        more = {
            name
            for name, made in links.items()
            if name not in found and any(link.table in found for link, _ in made)
        }
        if not more:
            return frozenset(found)
        found |= more


def _consent(
    tables: Tables,
    links: Mapping[str, list[tuple[Link, bool]]],
    people: str | None,
    about: frozenset[str],
    key: tuple[str, ...],
) -> Consents | None:
    for name in sorted(about - {people}):
        own = [
            link
            for link, _ in links[name]
            if link.table == people
            and len(link.columns) == len(key)
            and (len(key) == 1 or set(link.references) == set(key))
        ]
        taken = {column for link, _ in links[name] for column in link.columns}
        taken.update(tables[name].primary_key)
        free = [each for each in tables[name].columns if each.name not in taken]
        purpose = [each.name for each in free if _PURPOSE & set(words(each.name))]
        answer = [
            each.name
            for each in free
            if _ANSWER & set(words(each.name)) and each.name not in purpose and not _is_time(each)
        ]
        time = [each.name for each in free if _is_time(each) and each.name not in purpose]
        if own and purpose and answer and time:
            named = dict(zip(own[0].references, own[0].columns, strict=True))
            whose = tuple(named[each] for each in key) if len(key) > 1 else own[0].columns
            return Consents(name, whose, purpose[0], answer[0], time[0])
    return None


def _is_time(column: SeenColumn) -> bool:
    said = words(column.name)
    return column.kind in _TIMES or (
        column.kind in ("text", "") and bool({"at", "date", "time", "when", "day"} & set(said[-1:]))
    )


def _records(
    tables: Tables,
    links: Mapping[str, list[tuple[Link, bool]]],
    people: str | None,
    about: frozenset[str],
    consent: Consents | None,
) -> Guess:
    """The table of training records: of those that lead to a person, the one that says most."""
    if people is None:
        return Guess(None, "which table has one row a training record?")

    def says(name: str) -> int:
        linked = {column for link, _ in links[name] for column in link.columns}
        own = {*tables[name].primary_key, *linked}
        return sum(each.name not in own and each.sign is None for each in tables[name].columns)

    others = about - {people} - ({consent.table} if consent else set())
    ranked = sorted((name for name in others if says(name)), key=lambda name: (-says(name), name))
    if not ranked:
        return Guess(people, "no other table leads to a person")
    why = "of the tables that lead to a person it says most"
    return Guess(ranked[0], why, (*ranked[1:3], people))
