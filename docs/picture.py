"""`python -m docs.picture [WORKSPACE]`: the README's picture, drawn from the reports of a run.

It is what `lethe run` says at its end, as an SVG that loads nothing. A test holds its words and
prices against the code: draw it anew after `make demo` where that test fails.
"""

import io
import sys
from pathlib import Path

from rich.console import Console

from lethe.cli.progress import summary
from lethe.config.params import load_params

PICTURE = Path(__file__).parent / "pictures" / "run.svg"
# Rich's own, without the window around it and without the fonts that it would load.
_FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
<rect fill="#0d1117" width="{width}" height="{height}" rx="8" />
<g transform="translate({terminal_x}, 24)" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def draw(workspace: Path) -> str:
    """The end of the workspace's last run."""
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print("[bright_black]$[/] make demo\n")
    console.print(summary(load_params(workspace / "params.yaml")))
    return console.export_svg(code_format=_FORMAT, unique_id="run", title="")


if __name__ == "__main__":
    PICTURE.write_text(draw(Path(sys.argv[1] if len(sys.argv) > 1 else ".")), encoding="utf-8")
