"""The documentation builds strictly, finds what it links to, and loads nothing from elsewhere."""

import re
import shutil
import warnings
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from docs.__main__ import PAGES, build

PROJECT = Path(__file__).parents[2]


def _built(out: Path, **what: Any) -> int:
    with warnings.catch_warnings():  # Python's, of Sphinx's libraries; Sphinx's own are errors
        warnings.simplefilter("ignore")
        return build(out, **what)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    assert _built(out) == 0
    return out / "html"


class _Loaded(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        loads = tag in ("script", "img", "iframe", "source", "link")
        found = facts.get("src") or (facts.get("href") if tag == "link" else None)
        if loads and found and facts.get("rel") not in ("license", "canonical"):
            self.addresses.append(found)


def _pages(site: Path) -> Iterator[Path]:
    yield from site.rglob("*.html")


def test_a_page_loads_nothing_from_another_machine(site: Path) -> None:
    for page in _pages(site):
        loaded = _Loaded()
        loaded.feed(page.read_text())
        foreign = [each for each in loaded.addresses if re.match(r"(https?:)?//", each)]
        assert not foreign, (page, foreign)
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", style.read_text()), style


def test_the_search_and_the_drawings_are_in_the_site(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    for word in ("epsilon", "receipt", "lethe_key"):
        assert word in index, word
    images = {path.name for path in (site / "_images").iterdir()}
    assert {"pipeline.svg", "architecture.svg", "run.svg"} <= images


def test_every_page_is_in_the_site_and_the_first_leads_to_it(site: Path) -> None:
    sources = [path.relative_to(PROJECT) for path in (PROJECT / "docs").rglob("*.md")]
    for source in [*sources, *(Path(name) for name in PAGES if name.endswith(".md"))]:
        assert (site / source.with_suffix(".html")).exists(), source
    assert 'href="docs/index.html"' in (site / "index.html").read_text()


@pytest.mark.parametrize(
    "line",
    ["[gone](absent.md)", "[gone](glossary.md#absent-words)", "![gone](pictures/absent.svg)"],
)
def test_a_dead_link_is_an_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], line: str
) -> None:
    small = tmp_path / "small"
    (small / "docs").mkdir(parents=True)
    shutil.copy(PROJECT / "docs" / "conf.py", small / "docs")
    shutil.copy(PROJECT / "docs" / "glossary.md", small / "docs")
    (small / "docs" / "index.md").write_text(
        f"# Small\n\n{line}\n\n```{{toctree}}\nglossary\n```\n"
    )
    assert _built(tmp_path / "site", root=small, pages=(), reference={}) != 0
    assert "absent" in capfd.readouterr().err
