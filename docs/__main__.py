"""`python -m docs [FOLDER]`: the documentation as a site, built strictly and without a network.

The pages are copied beside the generated reference first, so that a build changes no tracked file.
A dead link, a page that nothing leads to, or any other warning of Sphinx ends it with an error.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sphinx.cmd.build import build_main

from docs.generate import reference as generated

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "LICENSE",
)


def build(
    out: Path,
    *,
    root: Path = ROOT,
    pages: Sequence[str] = PAGES,
    reference: Mapping[str, str] | None = None,
) -> int:
    """Builds the site into `out/html`; returns Sphinx's exit code.

    Args:
        out: is emptied first.
        root: the repository, or another folder with `docs/`.
        pages: files beside `docs/` that are pages too.
        reference: page name → Markdown; made from the code if not given.
    """
    shutil.rmtree(out, ignore_errors=True)
    source = out / "source"
    shutil.copytree(root / "docs", source / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in pages:
        shutil.copy(root / name, source / name)
    (source / "docs" / "reference").mkdir()
    for name, text in (generated(root) if reference is None else reference).items():
        (source / "docs" / "reference" / f"{name}.md").write_text(text)
    html = out / "html"
    strict = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    settings = ["-c", str(root / "docs"), "-d", str(out / "doctrees"), "-b", "html"]
    done = build_main([*strict, *settings, str(source), str(html)])
    (html / "index.html").write_text(
        '<!doctype html><meta charset="utf-8"><title>Lethe</title>'
        '<meta http-equiv="refresh" content="0; url=docs/index.html">'
        '<a href="docs/index.html">Lethe</a>\n'
    )
    return done


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "site"))
