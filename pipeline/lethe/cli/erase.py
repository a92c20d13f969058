"""`lethe erase …`: what people ask for, taken in, worked on and proved."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lethe.cli.terminal import PARAMS, AsJson, ParamsFile, now, say, say_json
from lethe.config.params import load_params
from lethe.core.errors import ParamsInvalid, RequestsOpen

if TYPE_CHECKING:
    from lethe.rights.erasure import ErasureSummary

erase = typer.Typer(
    help="Take requests of people in, carry them out in every store, and prove it.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@erase.command(epilog="Example: lethe erase request --email ada@example.org")
def request(
    subject: Annotated[
        str | None,
        typer.Option(
            help="A subject's key in the source, of several columns a list: [1, 12]; - reads it "
            "from input."
        ),
    ] = None,
    email: Annotated[
        str | None,
        typer.Option(help="An e-mail address, where `email` or `eMail` is declared."),
    ] = None,
    identifier: Annotated[
        str | None, typer.Option(help="COLUMN=VALUE of any declared identifier.")
    ] = None,
    csv_file: Annotated[
        Path | None, typer.Option("--csv", help="Many: one column, its name in the first row.")
    ] = None,
    kind: Annotated[
        str, typer.Option(help="erase; or withdraw, object: left out for this purpose alone.")
    ] = "erase",
    params_file: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Record that somebody asks; nobody is looked up, so the reply reveals nothing about anyone."""
    from lethe.people.references import refer
    from lethe.rights import intake
    from lethe.rights.erasure import ASKED

    params = load_params(params_file)
    if sum(each is not None for each in (subject, email, identifier, csv_file)) != 1:
        raise ParamsInvalid("Give one of --subject, --email, --identifier and --csv.")
    if kind not in ASKED:
        raise ParamsInvalid(f"--kind is one of {', '.join(ASKED)}, not {kind!r}.")
    if csv_file is not None:
        references = intake.read_csv(params, csv_file)
    elif identifier is not None:
        name, equals, value = identifier.partition("=")
        if not equals:
            raise ParamsInvalid("--identifier is COLUMN=VALUE, such as phone=… .")
        references = [refer(params, name.strip(), value)]
    elif email is not None:
        references = [refer(params, "email", email)]
    else:
        value = sys.stdin.readline() if subject == "-" else str(subject)
        references = [refer(params, None, value)]
    made = intake.receive(params, references, kind=kind, now=now())
    if as_json:
        say_json([{"request": m.request_id, "due_at": m.due_at.isoformat()} for m in made])
        return
    for each in made:
        say(f"Request {each.request_id}, to be answered by {each.due_at:%Y-%m-%d}.")


@erase.command(epilog="Example: lethe erase status --json")
def status(
    request_id: Annotated[str | None, typer.Argument(help="One request; all without it.")] = None,
    params_file: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Say how requests stand: dates, steps, and why one is still open."""
    from lethe.rights import intake
    from lethe.rights.erasure import ASKED
    from lethe.stores.opening import open_requests

    params = load_params(params_file)
    with open_requests(params) as requests:
        found = [r for r in requests.all() if r.kind in ASKED]
        found = found if request_id is None else [requests.find(request_id)]
    rows = [intake.status(each, params, now=now()) for each in found]
    say_json(rows) if as_json else say(intake.render_status(rows))


@erase.command(epilog='Example: lethe erase extend r-5f1c --reason "many systems to search"')
def extend(
    request_id: Annotated[str, typer.Argument(help="The request.")],
    reason: Annotated[str, typer.Option(help="Why; you must say it to the person.")],
    params_file: ParamsFile = PARAMS,
) -> None:
    """Extend a deadline by the two further months of Art. 12(3), within the first month."""
    from lethe.rights import intake

    made = intake.extend(load_params(params_file), request_id, reason=reason, now=now())
    say(f"Request {made.request_id} is to be answered by {made.due_at:%Y-%m-%d}.")


@erase.command(epilog="Example: lethe erase run --dry-run")
def run(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what there is to do and what it costs; do none.")
    ] = False,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Carry out every open request: erase, train without them, retire, verify, and prove it.

    Ends with 36 if a request stays open, and may be started again at any time; a second one at
    the same time ends with 29.
    """
    from lethe.rights import erasure_service

    params = load_params(params_file)
    if dry_run:
        say(erasure_service.forecast(params, now=now()))
        return
    summary = erasure_service.run(params, clock=now, report=say)
    if not any((summary.closed, summary.joined, summary.waiting, summary.problems)):
        say("Nothing to do.")
    _say_summary(summary)


@erase.command(epilog="Example: lethe erase step collect")
def step(
    name: Annotated[
        str,
        typer.Argument(
            help="collect, suppress, erase_source, erase_history, retrain, retire, verify, receipt."
        ),
    ],
    elsewhere: Annotated[
        bool,
        typer.Option("--elsewhere", help="retrain: take what the run of --needed came to."),
    ] = False,
    needed: Annotated[
        str | None,
        typer.Option(
            "--needed", help="retrain: ask for a run of the pipeline by this name; 43 if none is."
        ),
    ] = None,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Take every open request through one step of `erase run`, for a scheduler.

    In the order above, whatever came of the one before; each may be repeated. Ends with 36 if a
    request stays open for what this step found, with 43 if none is open, with 29 while another
    command works on them.
    """
    from lethe.rights import erasure_service

    params = load_params(params_file)
    if (elsewhere or needed is not None) and name != "retrain":
        raise ParamsInvalid("--elsewhere and --needed are of the step retrain.")
    if needed is not None:
        erasure_service.run_needed(params, needed, clock=now, report=say)
        say(f"Run {needed} of the pipeline is to be started.")
        return
    _say_summary(
        erasure_service.take_step(params, name, elsewhere=elsewhere, clock=now, report=say)
    )


def _say_summary(summary: "ErasureSummary") -> None:
    """What came of a run or a step, a line for each request."""
    for request_id, number in summary.closed.items():
        say(f"{request_id}: closed, receipt {number}.")
    for request_id, other in summary.joined.items():
        say(f"{request_id}: joined to {other}.")
    for request_id, until in summary.waiting.items():
        say(f"{request_id}: erased from the data; models are trained anew from {until:%Y-%m-%d}.")
    if summary.problems:
        listed = "; ".join(f"{each}: {why}" for each, why in summary.problems.items())
        raise RequestsOpen(f"{len(summary.problems)} requests stay open. {listed}")


@erase.command(epilog="Example: lethe erase verify")
def verify(
    request_id: Annotated[str | None, typer.Argument(help="One open request; all.")] = None,
    params_file: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Look afresh into every store: for who has an open request, and for who came back."""
    from lethe.rights import erasure_service

    found = erasure_service.verify(load_params(params_file), request_id, now=now())
    say_json(found) if as_json else say(erasure_service.render_verify(found))
    if found["still_there"]:
        raise RequestsOpen(f"{found['still_there']} findings; lethe erase run goes on with them.")


@erase.command(epilog="Example: lethe erase receipt --check")
def receipt(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="A request; with --check files, where a folder is all in it."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Check the signatures and the chain.")
    ] = False,
    public_key: Annotated[
        list[Path] | None, typer.Option("--public-key", help="Keys to trust, in PEM.")
    ] = None,
    head: Annotated[
        str | None, typer.Option(help="NUMBER:HASH of a receipt that must be there.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write receipts, their pages and the key here.")
    ] = None,
    params_file: ParamsFile = PARAMS,
) -> None:
    """Show a receipt, write all, or check them with the public key alone."""
    from lethe.rights import receipt_files

    if check and names:
        files = [Path(name) for name in names]
        say(receipt_files.check_files(files, public_key or [], head=head))
        return
    params = load_params(params_file)
    if check:
        say(receipt_files.check_stored(params, public_key or [], head=head))
    elif out is not None:
        say(f"Wrote {receipt_files.write_all(params, out)} receipts to {out}.")
    elif len(names or ()) > 1:
        raise ParamsInvalid("Name one request; or give --check for files.")
    else:
        say(receipt_files.show(params, names[0] if names else None))
