"""`lethe sweep`: its options, and which sweep they ask for."""

import datetime as dt
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lethe.config.params import load_params
from lethe.core.errors import ParamsInvalid


def sweep(
    stand_in: Annotated[
        str | None,
        typer.Option(
            help="generated (the default: invented from the declarations), or a file or folder of "
            "Parquet or CSV that you declare to be public."
        ),
    ] = None,
    charged: Annotated[
        bool, typer.Option("--charged", help="On the people in the shards; spends their budget.")
    ] = False,
    epsilon: Annotated[str | None, typer.Option(help="Targets: 0.5,1,2.")] = None,
    noise_multiplier: Annotated[
        str | None, typer.Option(help="Noise multipliers instead: 1,2,4.")
    ] = None,
    noise: Annotated[str | None, typer.Option(hidden=True)] = None,  # what it was called before
    clip: Annotated[str | None, typer.Option(help="Clip norms; half, once, twice yours.")] = None,
    repeats: Annotated[
        int, typer.Option(min=1, max=20, help="Trainings a point; the table has their median.")
    ] = 1,
    people: Annotated[
        int | None, typer.Option(min=100, help="How many to generate; expected_subjects.")
    ] = None,
    auc: Annotated[float, typer.Option(help="Your guess of the signal, for generated.")] = 0.7,
    base_rate: Annotated[float, typer.Option(help="Share of yes labels, for generated.")] = 0.2,
    person: Annotated[
        str | None, typer.Option(help="Column of a stand-in file that says whose a row is.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which people are generated; never the noise.")] = 1,
    yes: Annotated[
        bool, typer.Option("--yes", help="Spend what --charged costs, unasked.")
    ] = False,
    params_file: Annotated[Path, typer.Option("--params", help="The declarations.")] = Path(
        "params.yaml"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Show accuracy against epsilon, to choose one by: on a stand-in for free, or charged."""
    # Here, not above: torch and scikit-learn take seconds that other commands need not wait.
    from rich.console import Console

    from lethe.sweep.grid import grid, numbers
    from lethe.sweep.report import render_sweep
    from lethe.sweep.run import paths_written, sweep_charged, sweep_stand_in
    from lethe.sweep.stand_in import from_files, generated

    if noise is not None:
        raise ParamsInvalid("`--noise` is called `--noise-multiplier` now. Write that.")
    if charged and stand_in is not None:
        raise ParamsInvalid("Give either --stand-in or --charged: one is free, one is not.")
    if charged and (people is not None or person is not None):
        raise ParamsInvalid("--people and --person are of a stand-in; leave them out of --charged.")
    params, console = load_params(params_file), Console(stderr=True)
    wanted: dict[str, Any] = {
        "epsilons": None if epsilon is None else numbers(epsilon, option="--epsilon"),
        "noise_multipliers": None
        if noise_multiplier is None
        else numbers(noise_multiplier, option="--noise-multiplier"),
        "clips": None if clip is None else numbers(clip, option="--clip"),
    }
    if charged:

        def agree(price: str) -> None:
            typer.echo(price, err=True)
            if not yes and not (sys.stdin.isatty() and typer.confirm("Spend it?", err=True)):
                raise ParamsInvalid("Nothing was spent. Say --yes to spend what is listed above.")

        plans = grid(params, **wanted)
        now = dt.datetime.now(dt.UTC)
        report = sweep_charged(
            params, plans, repeats=repeats, now=now, console=console, agree=agree
        )
    else:
        if stand_in in (None, "generated"):
            tried = generated(params, people=people, auc=auc, base_rate=base_rate, seed=seed)
        else:
            tried = from_files(params, Path(str(stand_in)), person=person, seed=seed)
        plans = grid(params, **wanted, people=len(tried.people))
        report = sweep_stand_in(params, plans, tried, repeats=repeats, console=console)
    if as_json:
        typer.echo(json.dumps(report, indent=2, sort_keys=True, allow_nan=False))
        return
    typer.echo(render_sweep(report))
    typer.echo("\n" + "\n".join(str(path) for path in paths_written()))
