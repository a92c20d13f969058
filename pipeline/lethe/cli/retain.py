"""`lethe retain`: what is past its retention leaves, without anybody asking."""

from typing import Annotated

import typer

from lethe.cli.terminal import PARAMS, AsJson, ParamsFile, now, say, say_json
from lethe.config.params import load_params
from lethe.core.errors import RetentionOpen


def retain(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what is past its retention; change nothing.")
    ] = False,
    params_file: ParamsFile = PARAMS,
    as_json: AsJson = False,
) -> None:
    """Take what is past its declared retention out of every store, and prove it.

    Ends with 39 if something has not left everywhere, and may be started again at any time; with
    29 while `lethe erase run` or another `lethe retain` is under way.
    """
    from lethe.rights import retention_service

    params = load_params(params_file)
    if dry_run:
        found = retention_service.forecast(params, now=now())
        say_json(found) if as_json else say(retention_service.render_forecast(found))
        return
    summary = retention_service.run(
        params, clock=now, report=lambda said: None if as_json else say(said)
    )
    if as_json:
        say_json(vars(summary))
    else:
        for request_id, number in summary.closed.items():
            say(f"{request_id}: closed, receipt {number}.")
        for request_id, what in summary.waiting.items():
            say(f"{request_id}: the rows are gone; {what}.")
        for line in retention_service.undated(summary.undated):
            say(line)
        if not any((summary.closed, summary.waiting, summary.problems)):
            say("Nothing is past its retention.")
    if summary.problems:
        listed = "; ".join(f"{each}: {why}" for each, why in summary.problems.items())
        raise RetentionOpen(f"What is past its retention has not left everywhere yet. {listed}")
