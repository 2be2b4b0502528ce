"""How things look on a screen: consoles, JSON lines, tables, word differences, spans of time.

What is shown is the commands' business. rich is loaded when something is printed with it.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

MARKS = {
    "done": ("✓", "green"),
    "running": ("▸", "cyan"),
    "waiting": ("·", "dim"),
    "interrupted": ("‖", "yellow"),
    "failed": ("✗", "red"),
    "ok": ("✓", "green"),
    "warning": ("!", "yellow"),
    "missing": ("✗", "red"),
}
"""A state's sign and colour; the word itself always stands beside it."""


def console() -> "Console":
    """Standard output. Text is printed as it is: brackets in a model's answer are no markup."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, soft_wrap=not sys.stdout.isatty())


def print_json(value: object) -> None:
    """One line for a program, out at once."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def complain(text: str) -> None:
    """One line on standard error, whatever the message holds."""
    print(" ".join(text.split()), file=sys.stderr, flush=True)


def spelled_out(text: str) -> str:
    """The text with every control and direction character as an escape: data may hold what steers a terminal."""
    return "".join(c if c == "\n" or (c.isprintable() and c not in _DIRECTIONS) else _escape(c) for c in text)


_DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def mark(state: str) -> "Text":
    from rich.text import Text

    sign, style = MARKS[state]
    return Text(f"{sign} {state}", style=style)


def table(headings: Sequence[str], numbers: Sequence[int] = ()) -> "Table":
    """A table with a rule under its head and nothing else; the columns in `numbers` stand to the right."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for i, heading in enumerate(headings):
        made.add_column(heading, justify="right" if i in numbers else "left", overflow="fold")
    return made


def word_changes(before: str, after: str) -> "Text":
    """Both texts as one: what went is struck out and red, what came is bold and green."""
    from rich.text import Text

    from cai.evaluate.differences import word_differences

    styles = {"same": "", "removed": "red strike", "added": "bold green"}
    return Text.assemble(*((piece.text, styles[piece.kind]) for piece in word_differences(before, after)))


def marked_changes(before: str, after: str) -> str:
    """The same for a screen without colours: `[-gone-]` and `{+come+}`, as `git diff --word-diff` writes them."""
    from cai.evaluate.differences import word_differences

    frames = {"same": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    return "".join(frames[piece.kind].format(piece.text) for piece in word_differences(before, after))


def span(seconds: float) -> str:
    """A length of time as people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate(done: float, seconds: float) -> str:
    """How many in a second, or in a minute where a second is too short."""
    if done <= 0 or seconds <= 0:
        return ""
    each = done / seconds
    return f"{each:.1f}/s" if each >= 1 else f"{each * 60:.1f}/min"


def counted(counts: Mapping[str, int]) -> str:
    """`12 ties, 3 null edits`; nothing for what did not happen."""
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n)
