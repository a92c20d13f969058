"""Taking requests in, and saying how they stand.

Nobody is looked up here. A request for somebody who is known and one for somebody who is not
are the same work and the same words: what is written is encrypted and keyed by the vault, and
who it is about is found when the requests are worked on.
"""

import csv
import datetime as dt
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lethe.config.params import Params
from lethe.core.errors import ParamsInvalid
from lethe.people.references import Reference, identifier_columns, names_reference, refer
from lethe.rights.deadlines import extended
from lethe.rights.erasure import ASKED, waits_until
from lethe.stores.opening import open_requests, open_vault
from lethe.stores.requests.requests import OPEN, Request

STEPS = (
    "found",
    "suppressed",
    "remembered",
    "source",
    "vault",
    "overwritten",
    "models",
    "history",
    "retrained",
    "retired",
    "verified",
)


def receive(
    params: Params, references: Sequence[Reference], *, kind: str, now: dt.datetime
) -> list[Request]:
    """Records a request for each reference; one that is open already is given instead.

    Guarantees: from the moment that this returns no training set is made that has any of
        these people, and no model of one is registered; neither the work nor the answer
        depends on whether anybody is known by a reference.

    Raises:
        KeyInvalid, VaultMismatch: the vault does not open.
    """
    right = ASKED[kind]
    purpose = params.purpose if right.keeps_records else None
    made = []
    with (
        open_vault(params) as vault,
        open_requests(params) as requests,
    ):
        for reference in references:
            request_id = secrets.token_hex(16)
            content = reference.to_bytes()
            made.append(
                requests.receive(
                    request_id,
                    kind=kind,
                    purpose=purpose,
                    reference=vault.reference(f"{kind} {purpose} ".encode() + content),
                    encrypted=vault.encrypt(content, about=request_id),
                    received_at=now,
                    due_at=right.deadline(now),
                )
            )
    return made


def extend(params: Params, request_id: str, *, reason: str, now: dt.datetime) -> Request:
    """Gives a request the two further months.

    Raises:
        NotFound, ParamsInvalid: see `Requests.extend` and `deadlines.extended`.
    """
    with open_requests(params) as requests:
        request = requests.find(request_id)
        due_at = extended(request.received_at, now=now)
        return requests.extend(request_id, due_at=due_at, reason=reason)


def read_csv(params: Params, path: Path) -> list[Reference]:
    """One reference a row; the header names the subject's key or a declared identifier.

    Raises:
        ParamsInvalid: not one column, no such identifier, no row, or an empty value; with its
            line. Neither the file's words nor anything of people is shown.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ParamsInvalid(f"{path} cannot be read as CSV ({type(error).__name__}).") from None
    if not rows or len(rows[0]) != 1:
        raise ParamsInvalid(
            f"{path} must have one column, named {params.subject.called!r} or by a declared "
            "identifier, and a row for each person."
        )
    name = rows[0][0].strip()
    if not names_reference(params, name):  # what stands there instead may be a person's
        known = ", ".join(sorted(set(identifier_columns(params).values()))) or "none"
        raise ParamsInvalid(
            f"{path}, line 1: the header is neither {params.subject.called!r} nor one declared "
            f"identifier ({known}). Nothing was recorded."
        )
    found = []
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 1 or not row[0].strip():
            raise ParamsInvalid(f"{path}, line {line}: one value is needed. Nothing was recorded.")
        try:
            found.append(refer(params, name, row[0]))
        except ParamsInvalid as error:
            raise ParamsInvalid(f"{path}, line {line}: {error}") from None
    if not found:
        raise ParamsInvalid(f"{path} has a header and nobody below it. Nothing was recorded.")
    return found


def status(request: Request, params: Params, *, now: dt.datetime) -> dict[str, Any]:
    """How one request stands: opaque names, dates and counts."""
    waits = waits_until(request, params)
    return {
        "request": request.request_id,
        "kind": request.kind,
        "purpose": request.purpose,
        "state": request.state,
        "received_at": request.received_at.isoformat(),
        "due_at": request.due_at.isoformat(),
        "overdue": request.state == OPEN and now > request.due_at,
        "extension": request.extension,
        "joined_to": request.joined_to,
        "closed_at": request.closed_at.isoformat() if request.closed_at else None,
        "steps": [step for step in STEPS if step in request.marks],
        "waits_until": waits.isoformat() if request.state == OPEN and waits > now else None,
        "problem": request.problem,
    }


def render_status(rows: Iterable[dict[str, Any]]) -> str:
    """`status` for a reader."""
    lines = []
    for row in rows:
        said = [f"{row['request']}  {row['kind']:<8}  {row['state']:<6}"]
        if row["state"] == OPEN:
            late = "OVERDUE since" if row["overdue"] else "due"
            said.append(f"{late} {row['due_at'][:10]}")
            said.append(f"step {len(row['steps'])} of {len(STEPS)}")
        elif row["joined_to"]:
            said.append(f"answered by {row['joined_to']}")
        else:
            said.append(f"on {(row['closed_at'] or '')[:10]}")
        if row["waits_until"]:
            said.append(f"trains from {row['waits_until'][:10]}")
        lines.append("  ".join(said))
        if row["problem"]:
            lines.append(f"    still open: {row['problem']}")
    return "\n".join(lines) or "No requests."
