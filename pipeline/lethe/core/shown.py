"""What a person sees of text that comes from data: letters, and nothing that acts.

Names of tables and columns, declared words and what a registry says may hold characters that move
a terminal's cursor, rename its window or turn the order of letters round. They are shown as JSON
spells them, so that JSON that is shown stays the JSON that it was.
"""

import re

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # of a terminal; not tab and new line
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # of direction and line
    "\ud800-\udfff]"  # halves of characters, which cannot be written
)


def shown(text: str) -> str:
    """The text without any character that acts on what shows it.

    Guarantees: no control character but tab and new line is in it, no mark of direction, and no
        half of a character; showing twice is showing once.
    """
    return _ACTING.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def about(count: int, granularity: int = 100) -> str:
    """A count of people as it may be shown: rounded, and marked as such.

    Rounding to the nearest multiple: what is said changes by a person only where the count
    crosses from one to the next. It is not private by itself, and says so by its word.
    """
    if granularity == 1:
        return f"{count:,} (exact)"
    if count < granularity:
        return f"fewer than {granularity:,}"
    return f"about {(count + granularity // 2) // granularity * granularity:,}"
