"""Nothing that the code offers is missing from the reference, and nothing else is in it."""

from pathlib import Path

import pytest

import lethe
from docs.generate import api, commands, environment, parameters

PROJECT = Path(__file__).parents[2]
WORDS = parameters.described()
CLASSES = parameters.classes()


def test_every_command_and_option_is_in_the_reference() -> None:
    page = commands.page()
    found = dict(commands.commands())
    assert {"run", "erase", "erase request", "walk promote"} <= set(found)
    for path, command in found.items():
        _, heading, rest = page.partition(f"\n### lethe {path}\n")
        assert heading, path
        section = rest.partition("\n### ")[0]
        assert str(command.help).strip() in section
        for parameter in command.params:
            names = (
                parameter.opts
                if parameter.param_type_name == "option"
                else [parameter.name.upper()]
            )
            for name in names:
                assert f"`{name}`" in section or name == "--help", (path, name)


@pytest.mark.parametrize("place", CLASSES, ids=lambda place: place or "params.yaml")
def test_every_parameter_has_a_meaning_and_every_meaning_a_parameter(place: str) -> None:
    kind = CLASSES[place]
    words = WORDS.get(kind.__name__, {})
    fields = parameters.fields(kind)
    without = [
        n for n, facts in fields.items() if not (facts.description or words.get(n, "").strip())
    ]
    assert not without, f"{place}: no meaning in docs/generate/parameters.yaml for {without}"
    assert set(words) <= set(fields), f"{place}: {set(words) - set(fields)} is no parameter"


def test_every_section_of_the_meanings_is_a_class() -> None:
    assert set(WORDS) == {kind.__name__ for kind in CLASSES.values()}


def test_every_parameter_is_in_the_reference_with_its_default() -> None:
    page = parameters.page()
    for place, kind in CLASSES.items():
        section = page.partition(f"\n## {place or 'The file'}\n")[2].partition("\n## ")[0]
        rows = {line.split("|")[1].strip(): line for line in section.splitlines() if "|" in line}
        for name, facts in parameters.fields(kind).items():
            assert f"`{name}`" in rows, (place, name)
            if facts.is_required():
                assert "| required |" in rows[f"`{name}`"]
    assert "| `chunk_rows` | whole number | `20000` |" in page
    assert "(above 0, below 1)" in page


def test_every_environment_variable_is_in_the_sample_with_a_meaning() -> None:
    sampled = {each.name: each for each in environment.sampled(PROJECT)}
    read = set(environment.read_in(PROJECT))
    assert {"LETHE_KEY", "LETHE_RECEIPT_KEY", "LETHE_NOTIFY_WEBHOOK"} <= read
    assert read <= set(sampled), "missing in .env.sample"
    stale = {name for name in sampled if name.startswith("LETHE_")} - read
    assert not stale, "read nowhere"
    page = environment.page(PROJECT)
    for name, each in sampled.items():
        assert each.meaning, name
        assert f"| `{name}` |" in page


def test_every_public_name_is_in_the_reference() -> None:
    page = api.page()
    for name in getattr(lethe, "__all__", ()):
        assert f"\n## {name}\n" in page
