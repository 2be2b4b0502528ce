"""What revising came to: how much was changed, by how much, what was changed without cause, and what that will yield.

Counts only, so that chunks add up; sentences are made from their sums. Over-revision is told in two ways: answers that
were changed though the critic had found nothing wrong, and, where a prompt is known to be benign, answers to it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from cai.records import Revision
from cai.statistics import share_interval

MOSTLY_NULL = 0.75
"""Beyond this share of unchanged answers a pair costs four times a row's work, and the model has little to learn.

A model that serves everything leaves some 0.4 unchanged on prompts of which half are harmless (the embedded model), the
published revisions 0.01. What is near 1 comes from models that were aligned before."""

# Whatever comes with one of these may still ask for a change.
_ASIDE = re.compile(
    r"\b(?:but|however|although|though|yet|except|could|should|might|instead|unfortunately)\b", re.IGNORECASE
)
_FAULT = (
    r"(?:harm\w*|wrong|unethical|offensive|toxic|dangerous|illegal|bias\w*|racist|sexist|inappropriate|problematic)"
)
_FAULTS = r"(?:issues?|problems?|flaws?|faults?|errors?|concerns?|violations?|harm)"
_TO_DO = r"to (?:improve|change|correct|criticise|criticize|fix|add|report)"
_GOOD = r"(?:fine|harmless|appropriate|acceptable|ideal|unproblematic|good as it is)"
_IS = "(?:is|was|seems|appears|looks)"
_NOTHING = re.compile(
    "|".join(
        (
            rf"\bnothing\b[^.]{{0,40}}\b(?:obvious|{_TO_DO}|{_FAULT})",
            rf"\bno (?:\w+ )?{_FAULTS}\b",
            rf"\b(?:answer|response|reply|it|this|that)\b[^.]{{0,30}}\b{_IS}(?: to be)?(?: \w+)? {_GOOD}\b",
            rf"\b(?:is|was|are) (?:not|neither)(?: \w+)? {_FAULT}",
            rf"\b(?:does|did|do)(?: not|n't)\b[^.]{{0,40}}\b{_FAULT}",
        )
    ),
    re.IGNORECASE,
)


def counted(revisions: Sequence[Revision], benign: frozenset[str] = frozenset()) -> Counter[str]:
    """The counts of these revisions; `benign` holds the ids of prompts that are known to be harmless."""
    counts: Counter[str] = Counter(rows=len(revisions))
    for revision in revisions:
        changed = any(turn.changed for turn in revision.rounds)
        counts["changed"] += changed
        for turn in revision.rounds:
            calm = finds_nothing(turn.critique)
            counts["rounds"] += 1
            counts["rounds changed"] += turn.changed
            counts["nothing found"] += calm
            counts["changed all the same"] += calm and turn.changed
        if revision.prompt.id in benign:
            counts["benign"] += 1
            counts["benign changed"] += changed
        if changed:
            before, after = revision.initial.split(), revision.final.split()
            counts["words before"] += len(before)
            counts["words after"] += len(after)
            counts["words kept"] += (Counter(before) & Counter(after)).total()
            counts["longer text"] += max(len(before), len(after))
    return +counts


def told(counts: Mapping[str, int]) -> tuple[str, ...]:
    """What the counts come to, a sentence each; nothing about what did not occur."""
    rows, changed = counts.get("rows", 0), counts.get("changed", 0)
    if not rows:
        return ()
    said = [f"{_of(changed, rows)} answers were changed."]
    before, after, kept = (counts.get(f"words {name}", 0) for name in ("before", "after", "kept"))
    if before and counts.get("longer text"):
        replaced, growth = 1 - kept / counts["longer text"], after / before - 1
        longer = "longer" if growth >= 0 else "shorter"
        said.append(f"A changed answer has {replaced:.0%} other words and is {abs(growth):.0%} {longer}.")
    calm, anyway = counts.get("nothing found", 0), counts.get("changed all the same", 0)
    if calm:
        said.append(f"Where the critic found nothing wrong, {_of(anyway, calm)} answers were changed all the same.")
    if benign := counts.get("benign", 0):
        theirs = _of(counts.get("benign changed", 0), benign)
        said.append(f"Of the prompts that are known to be benign, {theirs} had their answer changed.")
    return tuple(said)


def forecast(counts: Mapping[str, int], total: int) -> str:
    """A warning, once the counts so far make it sure that most answers come through unchanged; else nothing."""
    rows, changed = counts.get("rows", 0), counts.get("changed", 0)
    unchanged = share_interval(rows - changed, rows)
    if unchanged.low <= MOSTLY_NULL:
        return ""
    pairs = share_interval(changed, rows)
    return (
        f"{rows - changed} of {rows} answers came through critique and revision unchanged "
        f"({unchanged.low:.0%} to {unchanged.high:.0%} of all, with 95 % confidence): {total} prompts will give "
        f"{round(pairs.low * total)} to {round(pairs.high * total)} pairs. A model that was aligned before has little "
        "to revise: start from a helpful-only one (a pretrained model with style: paper, or one tuned on helpful "
        "answers alone), or bring prompts that it answers badly"
    )


def finds_nothing(critique: str) -> bool:
    """Whether an English critique says that nothing is wrong, and says nothing else that would ask for a change."""
    return bool(_NOTHING.search(critique)) and not _ASIDE.search(critique)


def _of(part: int, whole: int) -> str:
    interval = share_interval(part, whole)
    return f"{part} of {whole} ({interval.low:.0%} to {interval.high:.0%})"
