"""Whom a request is about: as it was said, before anybody was looked up, and as it was found.

Both are kept with a pending request, encrypted by the vault, and never shown.
"""

import base64
import json
from dataclasses import dataclass, field

from pyroaring import BitMap

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid
from lethe.core.outcomes import Traces
from lethe.core.text import plain
from lethe.stores.source.person_key import refuse_no_text, understood


@dataclass(frozen=True)
class Reference:
    """What a request says of its person: the subject's key, or the value of an identifier.

    `column` is `table.column` of a declared identifier; None for the subject's key.
    """

    column: str | None
    value: str = field(repr=False)

    def to_bytes(self) -> bytes:
        return json.dumps({"column": self.column, "value": self.value}, sort_keys=True).encode()


def reference_from_bytes(content: bytes) -> Reference | Traces:
    """What was kept with a request: what it said, or since it was looked up, what was found."""
    data = json.loads(content)
    if "value" in data:
        return Reference(data["column"], data["value"])
    return Traces(data["key"], data["token"], tuple(data["identifiers"]))


def traces_to_bytes(traces: Traces) -> bytes:
    data = {"key": traces.key, "token": traces.token, "identifiers": list(traces.identifiers)}
    return json.dumps(data, sort_keys=True).encode()


@dataclass(frozen=True)
class Expiry:
    """Whom a day's rows past their time were about, kept encrypted until all of it is done.

    `tokens`: people who stay, and of whose records some went. `people`: who leave whole.
    """

    tokens: BitMap = field(default_factory=BitMap, repr=False)
    people: tuple[Traces, ...] = field(default=(), repr=False)

    @property
    def leaving(self) -> BitMap:
        """The tokens of those who leave whole."""
        return BitMap(each.token for each in self.people if each.token is not None)

    def joined(self, later: "Expiry") -> "Expiry":
        """Both together; what was found of a person at first stays."""
        known = {each.key for each in self.people}
        fresh = tuple(each for each in later.people if each.key not in known)
        people = (*self.people, *fresh)
        return Expiry((self.tokens | later.tokens) - Expiry(people=people).leaving, people)

    def to_bytes(self) -> bytes:
        tokens = base64.b64encode(self.tokens.serialize()).decode()
        people = [json.loads(traces_to_bytes(each)) for each in self.people]
        return json.dumps({"tokens": tokens, "people": people}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, content: bytes) -> "Expiry":
        data = json.loads(content)
        people = (reference_from_bytes(json.dumps(each).encode()) for each in data["people"])
        return cls(
            BitMap.deserialize(base64.b64decode(data["tokens"])),
            tuple(each for each in people if isinstance(each, Traces)),
        )


def identifier_columns(params: Params) -> dict[str, str]:
    """How a declared identifier may be named → `table.column`: in full, or by its column alone
    where one table has it."""
    found = [
        (table, column)
        for table, declared in params.tables.items()
        for column, about in declared.columns.items()
        if about.role == "identifier"
    ]
    columns = [column for _, column in found]
    names = {f"{table}.{column}": f"{table}.{column}" for table, column in found}
    return names | {c: f"{t}.{c}" for t, c in found if columns.count(c) == 1}


def refer(params: Params, name: str | None, value: str) -> Reference:
    """A reference by a declared identifier's name, or by the subject's key.

    Args:
        name: `column` or `table.column`, in any case; None, `subject` or the key's own name for
            the subject's key. One of several columns is given as a list of JSON.

    Raises:
        ParamsInvalid: no such identifier is declared, or there is no value. Neither says
            anything of people.
    """
    said, value = value, plain(value).strip()
    if not value:
        raise ParamsInvalid("A request needs to say whom it is about: the value is empty.")
    refuse_no_text(value)
    if _is_key(params, name):
        return Reference(None, understood(said, params.subject))
    if params.address(params.source.url).partition(":")[0] in ("csv", "parquet"):
        raise ParamsInvalid(
            "A folder of files is never searched by identifiers. Give the subject's key."
        )
    alike = _alike(params, str(name))
    if len(alike) != 1:
        shown = ", ".join(sorted(set(identifier_columns(params).values()))) or "none"
        raise ParamsInvalid(
            f"{name!r} is not a declared identifier, or several; declared: {shown}. Name it by "
            "--identifier COLUMN=VALUE."
        )
    return Reference(alike.pop(), value)


def names_reference(params: Params, name: str) -> bool:
    """Whether `refer` knows a name: of the subject's key, or of one declared identifier."""
    return _is_key(params, name) or len(_alike(params, name)) == 1


def _is_key(params: Params, name: str | None) -> bool:
    if len(params.subject.keys) > 1:  # a part of it is not the key
        return name in (None, "subject", params.subject.called)
    key = params.subject.called
    return name in (None, "subject", key, f"{params.subject.table}.{key}")


def _alike(params: Params, name: str) -> set[str]:
    known = identifier_columns(params)
    if name in known:
        return {known[name]}
    return {known[each] for each in known if _plain(each) == _plain(name)}


def _plain(name: str) -> str:
    """`eMail`, `e_mail` and `email` are one name to a person."""
    return "".join(each for each in name.casefold() if each.isalnum() or each == ".")
