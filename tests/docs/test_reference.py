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
    assert {"run", "erase", "erase request", "worktree publish"} <= set(found)
    for path, command in found.items():
        _, heading, rest = page.partition(f"\n### lethe {path}\n")
        assert heading, path
        section = rest.partition("\n### ")[0]
        assert str(command.help).strip() in section
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue  # an older spelling, which is refused with the new one
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


class Toy:
    """Keeps one number.

    Guarantees: it never grows
        by itself.

    >>> Toy().more(by=1)
    2
    """

    @property
    def number(self) -> int:
        """The number."""
        return 1

    def more(self, *, by: float = 0.5) -> Path:
        """Adds to it.

        Args:
            by: how much; a long story
                that goes on.

        Raises:
            ValueError: it is `odd`.
        """
        raise ValueError(by)

    def _hidden(self) -> None: ...


def test_a_public_name_comes_with_signature_members_and_docstring(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lethe, "Toy", Toy, raising=False)
    monkeypatch.setattr(lethe, "__all__", ["Toy"], raising=False)
    page = api.page()
    assert "## Toy\n" in page
    assert "**Guarantees.** it never grows\nby itself." in page
    assert "```python\n>>> Toy().more(by=1)\n2\n```" in page
    assert "### Toy.number\n\nThe number." in page
    assert "Toy.more(\n    *,\n    by: float = 0.5,\n) -> Path" in page
    assert "- `by`: how much; a long story\n  that goes on." in page
    assert "- `ValueError`: it is `odd`." in page
    assert "hidden" not in page


def test_every_public_name_is_in_the_reference() -> None:
    page = api.page()
    for name in getattr(lethe, "__all__", ()):
        assert f"\n## {name}\n" in page
