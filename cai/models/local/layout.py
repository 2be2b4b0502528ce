"""Which packed positions a pass with gradients has: rows of tokens end to end, a prompt that rows share once for all.

A pure function of the rows; the attention over it is `packed`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cai.models.local.packed import Entry


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One conversation cut at the token where the completion starts."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    ids: tuple[int, ...]
    positions: tuple[int, ...]
    entries: tuple[Entry, ...]
    told: tuple[tuple[int, ...], ...]
    """For each row the packed positions from its prompt's last token on: where a completion's tokens are told."""


def lay_out(rows: Sequence[TokenRow], *, ends: bool) -> Layout:
    """Without `ends` a completion's last token, whose output tells nothing of the row, is left out."""
    ids: list[int] = []
    positions: list[int] = []
    entries: list[Entry] = []
    told: dict[int, tuple[int, ...]] = {}
    for family in families(rows):
        prompt = rows[family[0]].prompt_ids
        trunk = tuple(range(len(ids), len(ids) + len(prompt)))
        ids += prompt
        positions += range(len(prompt))
        # The longest branch is computed together with the prompt, as one plainly causal text.
        for number, row in enumerate(sorted(family, key=lambda i: (-len(rows[i].completion_ids), i))):
            completion = rows[row].completion_ids
            branch = completion if ends else completion[:-1]
            own = tuple(range(len(ids), len(ids) + len(branch)))
            ids += branch
            positions += range(len(prompt), len(prompt) + len(branch))
            if number == 0:
                entries.append(Entry(trunk + own, len(trunk) + len(own)))
            elif own:
                entries.append(Entry(trunk + own, len(own)))
            told[row] = (trunk[-1], *own)
    return Layout(tuple(ids), tuple(positions), tuple(entries), tuple(told[row] for row in range(len(rows))))


def families(rows: Sequence[TokenRow]) -> list[list[int]]:
    """The rows' numbers, those together that go on from one prompt."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(row.prompt_ids, []).append(number)
    return list(found.values())


def packed_length(rows: Sequence[TokenRow]) -> int:
    """How many positions a pass over these rows has, ends included."""
    return sum(
        len(rows[family[0]].prompt_ids) + sum(len(rows[i].completion_ids) for i in family) for family in families(rows)
    )


def pass_plan(rows: Sequence[TokenRow], max_tokens: int) -> list[list[int]]:
    """Row numbers of each pass, families together as far as `max_tokens` positions hold them, the longest first."""
    passes: list[list[int]] = []
    held = 0
    for family in sorted(families(rows), key=lambda family: (-packed_length([rows[i] for i in family]), family)):
        prompt = len(rows[family[0]].prompt_ids)
        fresh = True
        for row in family:
            own = len(rows[row].completion_ids)
            if not passes or held + own + (prompt if fresh else 0) > max_tokens:
                passes.append([])
                held, fresh = 0, True
            passes[-1].append(row)
            held += own + (prompt if fresh else 0)
            fresh = False
    return passes
