"""Finds a person in texts about others: by what names them alone, whatever its case.

The database chooses the texts that may name the person; a pattern decides.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipeline.declarations import Column
from pipeline.records import Traces
from pipeline.stores.source_writer import Row, Writer

MARK = "<ERASED>"  # in the form of the scrubber's marks

_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ].*)?")
_DIGITS_OF_A_NUMBER = 7  # fewer occur by chance: years, postcodes, amounts
_LETTERS_OF_A_CODE = 8
_BETWEEN_DIGITS = r"[\s().\-/]*"
_ESCAPE = "\\"


def is_telling(value: str, *, names_people: bool = False) -> bool:
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
    """What names one person, as a pattern and as what a database can look for.

    Guarantees: word-bounded (another address that contains theirs is not theirs), in any case
        and in either Unicode form; a name also as `Last, First`; a number however it is
        spaced.
    """

    values: tuple[str, ...] = field(repr=False)
    pattern: re.Pattern[str] = field(repr=False)
    likes: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, values: Iterable[str]) -> "Terms | None":
        """Terms for values that `is_telling` lets through; None without any."""
        distinct = sorted({value.strip() for value in values if value.strip()}, key=len)[::-1]
        if not distinct:
            return None
        patterns = [each for value in distinct for each in _patterns(value)]
        likes = [each for value in distinct for each in _likes(value)]
        return cls(
            tuple(distinct),
            re.compile("|".join(patterns), re.IGNORECASE),
            tuple(dict.fromkeys(likes)),
        )

    def redact(self, text: str) -> str:
        return self.pattern.sub(MARK, text)

    def names_in(self, text: str) -> bool:
        return self.pattern.search(text) is not None


def terms_of(traces: Traces) -> Terms | None:
    """What names the person: their identifiers, and their key if it can be told from chance."""
    return Terms.of([*traces.identifiers, *([traces.key] if is_telling(traces.key) else [])])


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
        for form in dict.fromkeys(unicodedata.normalize(f, value) for f in ("NFC", "NFD")):
            words = [re.escape(word).replace("'", "['’]") for word in form.split()]
            yield _bounded(r"\s+".join(words))
            if _is_name(form.split()):
                yield _bounded(words[-1] + r",?\s+" + r"\s+".join(words[:-1]))


def _bounded(pattern: str) -> str:
    return rf"(?<!\w){pattern}(?!\w)"


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
    for character in word:
        if not character.isascii() or character == "'":
            made += "%"
        else:
            made += _ESCAPE + character if character in "%_\\" else character
    return made


def may_name(whole: sa.ColumnElement[str], terms: Terms, dialect: str) -> sa.ColumnElement[bool]:
    """The condition for texts that may name the person."""
    if dialect == "sqlite":
        return sa.or_(*(whole.like(like, escape=_ESCAPE) for like in terms.likes))
    # An array, so that the text is put together and lowered once for all of them.
    likes = [like.lower() for like in terms.likes]
    return sa.func.lower(whole).like(sa.any_(sa.cast(likes, postgresql.ARRAY(sa.Text))))


def together(columns: Sequence[sa.ColumnElement[str]], dialect: str) -> sa.ColumnElement[str]:
    """All texts of a row as one."""
    if dialect == "postgresql":
        return sa.func.concat_ws(" ", *(sa.cast(column, sa.Text()) for column in columns))
    whole: sa.ColumnElement[str] = sa.func.ifnull(columns[0], "")
    for column in columns[1:]:
        whole = whole.concat(" ").concat(sa.func.ifnull(column, ""))
    return whole


def mentions(
    writer: Writer, table: str, columns: Sequence[str], terms: Terms
) -> Iterator[tuple[Row, dict[str, str]]]:
    """Rows that name the person, with the texts that do, by column."""
    facts = writer.graph.tables[table]
    clause = writer.table(table)
    taken = writer.graph.linking(table)
    wanted = [
        *(clause.c[name].label(f"i{n}") for n, name in enumerate(facts.identity)),
        *(clause.c[name].label(f"v{n}") for n, name in enumerate(taken)),
        *(clause.c[name].label(f"t{n}") for n, name in enumerate(columns)),
    ]
    dialect = writer.graph.dialect
    whole = together([clause.c[name] for name in columns], dialect)
    if dialect == "sqlite":
        # The limit keeps SQLite from putting the text together anew for every term.
        rows = sa.select(*wanted, whole.label("whole")).limit(-1).subquery()
        statement = sa.select(*(rows.c[each.name] for each in wanted))
        statement = statement.where(may_name(rows.c.whole, terms, dialect))
    else:
        statement = sa.select(*wanted).where(may_name(whole, terms, dialect))
    with writer.connection.execute(statement, execution_options={"yield_per": 1000}) as result:
        for row in result:
            texts = {
                name: text
                for name, text in zip(columns, row[len(row) - len(columns) :], strict=True)
                if isinstance(text, str) and terms.names_in(text)
            }
            if texts:
                identity = tuple(row[: len(facts.identity)])
                values = row[len(facts.identity) : len(row) - len(columns)]
                yield Row(table, identity, dict(zip(taken, values, strict=True))), texts


def searched(columns: dict[str, Column]) -> list[str]:
    """The columns of a table in which others' rows can mention the person, as declared."""
    return [
        name
        for name, column in columns.items()
        if column.role == "text" or column.mentions is not None
    ]
