"""What a reader or a trainer would stumble over in a data set, by row. Nothing is removed here: filters do that."""

import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cai.records import Preference, Reject
from cai.store.formats.rows import Answered

_SPECIAL = re.compile(r"<\|[\w ]{2,40}\|>|</?s>|\[/?INST\]|<(?:bos|eos|pad|unk|start_of_turn|end_of_turn)>")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_EXAMPLES = 3
LONG = 32_000

ADVICE = {
    "unreadable row": "an import leaves it out and says why",
    "same prompt and answers again": "`cai data filter` removes duplicates",
    "roles do not go in turn": "many chat templates refuse such a conversation",
    "system message inside": "most templates allow one at the start only",
    "special token in text": "a tokenizer may read it as the end of a turn; remove it",
    "control character": "some readers refuse it; remove it",
    "very long text": "it will be cut off or refused by a trainer",
    "tie or contradiction": "an export for a trainer leaves it out",
    "label says rejected is better": "its probability is below one half; swap the answers or drop the row",
    "nobody's verdict": "a plain label: its probability counts as 1",
    "answers differ in white space only": "there is nothing to learn from the pair",
    "tools": "only some layouts can hold them",
}


@dataclass(frozen=True, slots=True)
class Stumble:
    """One kind of trouble: how many rows have it, and where the first ones are."""

    what: str
    rows: int
    advice: str
    examples: list[str] = field(default_factory=list)


def check_rows(rows: Iterable[Preference | Answered | Reject]) -> list[Stumble]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        for what in dict.fromkeys(_troubles(row, seen)):
            counts[what] += 1
            shown = examples.setdefault(what, [])
            if len(shown) < _EXAMPLES:
                shown.append(row.detail if isinstance(row, Reject) else f"row {number} ({row.id})")
    order = list(ADVICE)
    return [Stumble(what, counts[what], ADVICE[what], examples[what]) for what in sorted(counts, key=order.index)]


def _troubles(row: Preference | Answered | Reject, seen: set[str]) -> Iterator[str]:
    if isinstance(row, Reject):
        yield "unreadable row"
        return
    if row.id in seen:
        yield "same prompt and answers again"
    seen.add(row.id)
    roles = [message.role for message in row.prompt.messages]
    if "system" in roles[1:]:
        yield "system message inside"
    spoken = [role for role in roles if role not in ("system", "tool")]
    if any(a == b for a, b in itertools.pairwise(spoken)) and "tool" not in roles:
        yield "roles do not go in turn"
    answers = (row.chosen, row.rejected) if isinstance(row, Preference) else (row.completion,)
    for text in (*(message.content for message in row.prompt.messages), *answers):
        if _SPECIAL.search(text):
            yield "special token in text"
        if _CONTROL.search(text):
            yield "control character"
        if len(text) > LONG:
            yield "very long text"
    if row.prompt.tools or any(message.tool_calls for message in row.prompt.messages):
        yield "tools"
    if isinstance(row, Preference):
        yield from _pair_troubles(row)


def _pair_troubles(row: Preference) -> Iterator[str]:
    if row.kind != "preferred":
        yield "tie or contradiction"
    elif row.p_chosen < 0.5:
        yield "label says rejected is better"
    if not row.verdicts:
        yield "nobody's verdict"
    if row.chosen.split() == row.rejected.split():
        yield "answers differ in white space only"
