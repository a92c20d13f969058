"""Nothing in text of data acts on the terminal that shows it."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lethe.cli import main as command
from lethe.cli.terminal import say, say_json
from lethe.core.errors import SchemaMismatch
from lethe.core.notices import notice
from lethe.core.shown import shown

ACTING = {
    "colour": "\x1b[31mred",
    "title of a window": "\x1b]0;mine\x07",
    "clipboard": "\x1b]52;c;cm0gLXJm\x1b\\\\",
    "link": "\x1b]8;;https://x.invalid\x1b\\\\here",
    "one byte for two": "\x9b2J",
    "line taken back": "all is well\rnothing",
    "deleted": "no\x08\x08yes\x7f",
    "turned round": "\u202egpj.exe",
    "isolated": "\u2066a\u2069",
    "line of Unicode": "a\u2028b",
    "half a character": "\ud800",
    "end of text": "a\x00b",
}


@pytest.mark.parametrize("text", ACTING.values(), ids=ACTING)
def test_no_way_to_the_terminal_lets_it_act(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.workspace, "write_failure", lambda *_: None)
    say(text)
    say_json({"name": text})
    notice(text)
    with pytest.raises(SystemExit):
        command._fail(SchemaMismatch(f"Table {text} is not declared."))
    written = "".join(capsys.readouterr())
    assert not [c for c in written if unicodedata.category(c) in ("Cc", "Cs") and c != "\n"]
    assert not set(written) & set("\u202e\u2066\u2069\u2028")


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.text())
def test_shown_twice_is_shown_once_and_json_stays_json(text: str) -> None:
    assert shown(shown(text)) == shown(text)
    assert json.loads(shown(json.dumps(text, ensure_ascii=False))) == text


def test_a_purpose_is_no_markup_of_the_summary() -> None:
    from rich.panel import Panel
    from rich.text import Text

    console = Console(file=sys.stdout, force_terminal=True, record=True, width=80)
    console.print(Panel("", title=Text(shown("[link=https://x.invalid]a[/link]\x1b[2J"))))
    assert "[link=https://x.invalid]a[/link]\\u001b[2J" in console.export_text()
