"""`lethe sweep`: its options, and which sweep they ask for."""

import datetime as dt
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lethe.cli.terminal import say, say_json
from lethe.config.params import Params, load_params
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
    from lethe.sweep.report import render_sweep
    from lethe.sweep.run import paths_written

    if noise is not None:
        raise ParamsInvalid("`--noise` is called `--noise-multiplier` now. Write that.")
    if charged and stand_in is not None:
        raise ParamsInvalid("Give either --stand-in or --charged: one is free, one is not.")
    if charged and (people is not None or person is not None):
        raise ParamsInvalid("--people and --person are of a stand-in; leave them out of --charged.")
    params, axes = load_params(params_file), _axes(epsilon, noise_multiplier, clip)
    if charged:
        report = _charged(params, axes, repeats=repeats, yes=yes)
    else:
        guess = {"people": people, "auc": auc, "base_rate": base_rate}
        report = _free(params, axes, stand_in, guess, person=person, seed=seed, repeats=repeats)
    if as_json:
        return say_json(report)
    written = (os.path.relpath(path) for path in paths_written(params, charged=charged))
    say(render_sweep(report) + "\n\n" + "\n".join(written))


def _axes(epsilon: str | None, noise_multiplier: str | None, clip: str | None) -> dict[str, Any]:
    """What is tried, as `grid` takes it."""
    from lethe.sweep.grid import numbers

    given = {"epsilon": epsilon, "noise-multiplier": noise_multiplier, "clip": clip}
    found = {
        name: None if text is None else numbers(text, option=f"--{name}")
        for name, text in given.items()
    }
    return {
        "epsilons": found["epsilon"],
        "noise_multipliers": found["noise-multiplier"],
        "clips": found["clip"],
    }


def _charged(params: Params, axes: dict[str, Any], *, repeats: int, yes: bool) -> dict[str, Any]:
    """On the people in the shards, once somebody agreed to the price."""
    from rich.console import Console

    from lethe.sweep.grid import grid
    from lethe.sweep.run import sweep_charged

    def agree(price: str) -> None:
        say(price, err=True)
        if not yes and not (sys.stdin.isatty() and typer.confirm("Spend it?", err=True)):
            raise ParamsInvalid("Nothing was spent. Say --yes to spend what is listed above.")

    now, console = dt.datetime.now(dt.UTC), Console(stderr=True)
    plans = grid(params, **axes)
    return sweep_charged(params, plans, repeats=repeats, now=now, console=console, agree=agree)


def _free(
    params: Params,
    axes: dict[str, Any],
    stand_in: str | None,
    guess: dict[str, Any],
    *,
    person: str | None,
    seed: int,
    repeats: int,
) -> dict[str, Any]:
    """On a stand-in: invented by `guess`, or what a file has."""
    from rich.console import Console

    from lethe.sweep.grid import grid
    from lethe.sweep.run import sweep_stand_in
    from lethe.sweep.stand_in import from_files, generated

    if stand_in in (None, "generated"):
        tried = generated(params, **guess, seed=seed)
    else:
        tried = from_files(params, Path(str(stand_in)), person=person, seed=seed)
    plans = grid(params, **axes, people=len(tried.people))
    return sweep_stand_in(params, plans, tried, repeats=repeats, console=Console(stderr=True))
