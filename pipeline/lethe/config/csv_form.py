"""How the CSV files of a source are written, as `source.csv` declares it."""

import codecs
import csv
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CsvForm:
    """How CSV files are written; reading and erasing go by it alike.

    `quote`: the character around fields with a separator or a line's end in them, or `none`.
    `escape`: the character before one that is meant as itself, if there is one.
    `decimal`: what stands before the fraction of a number in a column of type integer or real;
        with a comma, a number with a point is none.
    """

    separator: str = Field(default=",", min_length=1, max_length=1)
    quote: str = '"'
    escape: str | None = Field(default=None, min_length=1, max_length=1)
    encoding: str = "utf-8"
    decimal: Literal[".", ","] = "."

    @model_validator(mode="after")
    def _possible(self) -> "CsvForm":
        if self.quote != "none" and len(self.quote) != 1:
            raise ValueError(f"quote must be one character or none, not {self.quote!r}")
        special = [self.separator, *(each for each in (self.quote, self.escape) if each)]
        if len(set(special)) != len(special) or set(special) & set("\r\n"):
            raise ValueError("separator, quote and escape must differ, and be no line's end")
        try:
            found = codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(
                f"{self.encoding!r} is no encoding; write one as utf-8, cp1252 or utf-16"
            ) from None
        if not found._is_text_encoding:
            raise ValueError(f"{self.encoding!r} is no encoding of text")
        return self

    @property
    def reading(self) -> str:
        """The encoding to read by: a byte-order mark is none of the text."""
        return "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding

    @property
    def dialect(self) -> dict[str, Any]:
        """For `csv.reader` and `csv.writer`."""
        quoted: dict[str, Any] = {"quotechar": self.quote}
        if self.quote == "none":
            quoted = {"quotechar": None, "quoting": csv.QUOTE_NONE}
        return {"delimiter": self.separator, "escapechar": self.escape, "strict": True, **quoted}
