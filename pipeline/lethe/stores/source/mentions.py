"""Finds a person in texts about others: by what names them alone, however it is spelled.

The database chooses the texts that may name the person; a pattern decides.
"""

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from lethe.config.params import Params
from lethe.config.tables import Column
from lethe.core.outcomes import Traces
from lethe.core.text import ODD, InPlace, folded, is_ordinary_word
from lethe.stores.search.automaton import SPACE, AnyOf, literal, odd_letter, pattern_of, spelled
from lethe.stores.source.text_scan import rows_with
from lethe.stores.source.writer import Row, Writer, open_writer

MARK = "<ERASED>"  # in the form of the scrubber's marks

_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_DIGITS_OF_A_NUMBER = 7  # fewer occur by chance: years, postcodes, amounts
_LETTERS_OF_A_CODE = 8
_BETWEEN_DIGITS = r"[\s().\-/]*"
_ESCAPE = "\\"

Who = TypeVar("Who", bound=Hashable)
Mentioned = Mapping[str, Sequence[Row]]  # by table; where none is given, all rows are looked at


def is_identifying(value: str, *, names_people: bool = False) -> bool:
    """Whether a value can be looked for in text: an e-mail address, a number of seven digits
    or more, a full name, words with a number (an address), a code of letters and digits.

    A lone word (a town, a first name) or a date is in too many texts that mean nobody.
    """
    text = value.strip()
    if "@" in text:
        return True
    if _DATE.fullmatch(text):
        return False
    digits = sum(character.isdigit() for character in text)
    letters = sum(character.isalpha() for character in text)
    if letters == 0:
        return digits >= _DIGITS_OF_A_NUMBER
    if len(text.split()) > 1:
        return names_people or digits > 0
    return digits > 0 and digits + letters >= _LETTERS_OF_A_CODE


@dataclass(frozen=True)
class Terms:
    """What names one person: as a pattern, and as what finds where it may match.

    `pattern` is for a text that is folded; `likes` are for a database, `filters` for one pass
    over memory.

    Guarantees: word-bounded (another address that contains theirs is not theirs), in any
        spelling that `lethe.core.text.folded` takes for the same; a name also as
        `Last, First`; a number however it is spaced.
    """

    values: tuple[str, ...] = field(repr=False)
    pattern: re.Pattern[str] = field(repr=False)
    likes: tuple[str, ...] = field(repr=False)
    filters: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, values: Iterable[str]) -> "Terms | None":
        """Terms for values that `is_identifying` lets through; None without any."""
        said = {value.strip() for value in values if any(c.isalpha() or c.isdigit() for c in value)}
        distinct = sorted(said, key=len)[::-1]
        if not distinct:
            return None
        words = list(dict.fromkeys(map(folded, distinct)))
        patterns = [each for value in words for each in _patterns(value)]
        likes = [each for value in words for each in _likes(value)]
        return cls(
            tuple(distinct),
            re.compile("|".join(patterns)),
            tuple(dict.fromkeys(likes)),
            tuple(dict.fromkeys(each for value in words for each in _filters(value))),
        )

    def redact(self, text: str) -> str:
        seen = InPlace.of(text)
        made, end = "", 0
        for match in self.pattern.finditer(seen.folded):
            made += text[end : seen.starts[match.start()]] + MARK
            end = seen.ends[match.end() - 1]
        return made + text[end:]

    def names_in(self, text: str) -> bool:
        return self.are_in(InPlace.of(text).folded)

    def are_in(self, folded_text: str) -> bool:
        return self.pattern.search(folded_text) is not None


def terms_of(traces: Traces, *, whole_key: bool) -> Terms | None:
    """What names the person: their identifiers, and their key if it cannot stand there by chance.

    A request's own words are looked for as well, but no ordinary word: it names nobody.

    Args:
        whole_key: whether the key is a value of one column. The text of several stands nowhere;
            those of them that name the person by themselves are among the identifiers.
    """
    said = [value for value in traces.identifiers if not is_ordinary_word(value)]
    named = whole_key and is_identifying(traces.key)
    return Terms.of([*said, *([traces.key] if named else [])])


def _is_number(value: str) -> bool:
    return not any(character.isalpha() for character in value)


def _is_name(words: Sequence[str]) -> bool:
    return len(words) > 1 and not any(c.isdigit() for word in words for c in word)


def _patterns(value: str) -> Iterator[str]:
    if "@" in value:
        yield rf"(?<![\w.+-]){re.escape(value)}(?![\w-]|\.\w)"
    elif _is_number(value):
        digits = _BETWEEN_DIGITS.join(filter(str.isdigit, value))
        yield rf"(?<!\d)\+?\(?{digits}(?!\d)"
    else:
        words = [re.escape(word) for word in value.split()]
        yield _bounded(r"\s+".join(words))
        if _is_name(value.split()):
            yield _bounded(words[-1] + r",?\s+" + r"\s+".join(words[:-1]))


def _bounded(pattern: str) -> str:
    return rf"(?<!\w){pattern}(?!\w)"


def _filters(value: str) -> Iterator[str]:
    """`_patterns` without its bounds, which miss nothing of it but in texts with `ODD`."""
    if "@" in value:
        yield pattern_of(spelled(value))
    elif _is_number(value):
        between = rf"[{SPACE}().\-/]*"
        first, *others = literal("".join(filter(str.isdigit, value)))
        yield pattern_of([first, *(between + digit for digit in others)])
    else:
        words = value.split()
        yield pattern_of(_spaced(words))
        if _is_name(words):
            last = [*_spaced(words[-1:]), ",?"]
            yield pattern_of([*last, f"[{SPACE}]+", *_spaced(words[:-1])])


def _spaced(words: Sequence[str]) -> list[str]:
    units: list[str] = []
    for word in words:
        units += [f"[{SPACE}]+"] if units else []
        units += spelled(word)
    return units


def _likes(value: str) -> Iterator[str]:
    """A LIKE pattern that misses nothing of `_patterns`, unless a number's last four digits
    are written in other groups than 4 or 2 and 2; SQLite's know only ASCII's case."""
    words = value.split()
    if _is_number(value) and "@" not in value:
        digits = "".join(filter(str.isdigit, value))
        yield f"%{digits[-4:-2]}%{digits[-2:]}%"
    elif _is_name(words):
        yield f"%{_loose(max(words, key=len))}%"
    else:
        yield f"%{'%'.join(map(_loose, words))}%"


def _loose(word: str) -> str:
    """A word for LIKE; what has two spellings (accents, apostrophes) stands for anything."""
    made = ""
    for character in word.replace("ss", "%"):
        if not character.isascii() or character in "'-%":
            made += "%"
        else:
            made += _ESCAPE + character if character in "%_\\" else character
    return made


def may_name(
    whole: sa.ColumnElement[str], likes: Iterable[str], dialect: str
) -> sa.ColumnElement[bool]:
    """The condition for texts that may name somebody: all those, too, that have `ODD` letters."""
    if dialect == "sqlite":
        glob = "*[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in ODD) + "]*"
        return sa.or_(whole.op("GLOB")(glob), *(whole.like(like, escape=_ESCAPE) for like in likes))
    # An array, so that the text is put together and lowered once for all of them.
    lowered = [like.lower() for like in likes]
    odd = "[" + "".join(rf"\U{a:08x}-\U{b:08x}" for a, b in ODD) + "]"
    return sa.or_(
        sa.func.lower(whole).like(sa.any_(sa.cast(lowered, postgresql.ARRAY(sa.Text)))),
        sa.collate(whole, "C").regexp_match(odd),
    )


def mentions(
    writer: Writer,
    table: str,
    columns: Sequence[str],
    terms: Terms,
    *,
    among: Sequence[Row] | None = None,
) -> Iterator[tuple[Row, dict[str, str]]]:
    """Rows that name the person, with the texts that do, by column.

    Args:
        among: rows that `find_mentions` saw a moment ago, which are read anew instead of all.
    """
    for row, named in mentions_of(writer, table, columns, {None: terms}, among=among):
        yield row, named[None]


def find_mentions(params: Params, people: Sequence[Traces]) -> dict[str, Mentioned]:
    """Rows whose texts name people, by key and table, where an erasure redacts or reports.

    One pass for all of them, so that the erasure of each need not look through everybody's texts. A
    table is left out if its rows are known by their place alone, which an erasure changes; so
    is a folder of files.

    Raises:
        SourceUnavailable, Busy, SchemaMismatch, ErasureRefused: see `open_writer`.
    """
    found: dict[str, dict[str, list[Row]]] = {traces.key: {} for traces in people}
    whole = len(params.subject.keys) == 1
    named = ((traces.key, terms_of(traces, whole_key=whole)) for traces in people)
    terms = {key: each for key, each in named if each is not None}
    if params.address(params.source.url).partition(":")[0] in ("csv", "parquet"):
        return {key: {} for key in found}
    with open_writer(params, writing=False) as writer:
        for table, facts in writer.graph.tables.items():
            columns = searched(params.tables[table].columns)
            if columns and "ctid" not in facts.identity:
                for rows in found.values():
                    rows[table] = []
                pairs = mentions_of(writer, table, columns, terms) if terms else ()
                for key, row in ((key, row) for row, named in pairs for key in named):
                    found[key][table].append(row)
    return {key: dict(tables) for key, tables in found.items()}


def mentions_of(
    writer: Writer,
    table: str,
    columns: Sequence[str],
    people: Mapping[Who, Terms],
    *,
    among: Sequence[Row] | None = None,
) -> Iterator[tuple[Row, dict[Who, dict[str, str]]]]:
    """Rows that name any of the people, with the texts that do, by person and column.

    Guarantees: one pass over the table, however many people; the same rows as of each alone.
    """
    likes = dict.fromkeys(like for terms in people.values() for like in terms.likes)
    filters = (each for terms in people.values() for each in terms.filters)
    sought = AnyOf.of_texts([*filters, odd_letter()])

    def may(whole: sa.ColumnElement[str]) -> sa.ColumnElement[bool]:
        return may_name(whole, likes, writer.graph.dialect)

    for row, texts in rows_with(writer, table, columns, sought, may, among=among):
        named: dict[Who, dict[str, str]] = defaultdict(dict)
        said = {n: InPlace.of(text).folded for n, text in texts.items() if isinstance(text, str)}
        for who, terms in people.items():
            for name, text in said.items():
                if terms.are_in(text):
                    named[who][name] = texts[name]
        if named:
            yield row, dict(named)


def searched(columns: dict[str, Column]) -> list[str]:
    """The columns of a table in which others' rows can mention the person, as declared."""
    return [
        name
        for name, column in columns.items()
        if column.role == "text" or column.mentions is not None
    ]
