"""Which key a person's number is, where the subject's key is a number by its column's type.

7, 007 and 7.00 are one number, and a column of numbers can hold it once; how it is spelled as a
canonical key depends on the type. In a column of texts (every CSV file's) they are three keys, and
none of them stands for another.
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal
from typing import Any

import sqlalchemy as sa

from lethe.core.values import canonical_text

# Without an exponent: spreadsheets write 1.2346E+11 for many numbers.
_PLAIN = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{1,400})?")
_EXACT = Context(prec=2000)


def plain_number(word: str) -> Decimal | None:
    """The number that a word is, in digits with at most one point; None for anything else."""
    return Decimal(word) if _PLAIN.fullmatch(word) else None


@dataclass(frozen=True)
class NumberKeys:
    """How a column of numbers spells them as canonical keys.

    `floating`: it holds floats. `places`: of a decimal's fraction; None if each row has its own.
    `whole_too`: whether whole decimals are spelled with their places, as those of files are.
    """

    floating: bool = False
    places: int | None = 0
    whole_too: bool = False

    @property
    def by_row(self) -> bool:
        return self.places is None

    @classmethod
    def of(cls, declared: sa.types.TypeEngine[Any], dialect: str) -> "NumberKeys | None":
        """Of a database's column; None if it holds no numbers by its type."""
        within = getattr(declared, "data_type", None)  # a domain is what it is made of
        if isinstance(within, sa.types.TypeEngine):
            return cls.of(within, dialect)
        if not isinstance(declared, sa.Integer | sa.Numeric | sa.Float):
            return None
        if dialect == "sqlite" or isinstance(declared, sa.Float):
            return cls(floating=True)  # SQLite turns into an integer or a float whatever it can
        return cls(places=declared.scale if isinstance(declared, sa.Numeric) else 0)

    def spelled(self, number: Decimal) -> str | None:
        """The canonical key of a number, exactly that one; None if it is none of the column's, or
        if its row alone says how it is spelled."""
        whole = number == number.to_integral_value()
        if whole and not self.whole_too:
            return str(int(number))
        if self.floating:
            made = canonical_text(float(number))
            return made if Decimal(made) == number else None
        if self.places is None:
            return None
        rounded = number.quantize(Decimal(1).scaleb(-self.places), context=_EXACT)
        return str(rounded) if rounded == number else None
