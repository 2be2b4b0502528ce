"""Which packed positions a pass with gradients has: rows of tokens end to end, a prompt that rows share once for all.

A pure function of the rows; the attention over it is `packed`'s.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cai.models.local.packed import Entry

Told = Literal["tokens", "states", "end"]
"""What is asked of a row: the states that predict its completion's tokens, those and the state after, or that alone."""


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
    asked: tuple[int, ...]
    """The packed positions whose output anything is read from, rising."""
    last: tuple[Entry, ...]
    """The entries of a layer that only those look out of."""
    told: tuple[tuple[int, ...], ...]
    """For each row, which of those asked are its own, in reading order."""


def lay_out(rows: Sequence[TokenRow], told: Told) -> Layout:
    """A completion's last token is left out where its own output is not asked for: nothing else looks at it."""
    ids: list[int] = []
    positions: list[int] = []
    entries: list[Entry] = []
    last: list[Entry] = []
    places: dict[int, tuple[int, ...]] = {}
    for family in families(rows):
        prompt = rows[family[0]].prompt_ids
        trunk = tuple(range(len(ids), len(ids) + len(prompt)))
        ids += prompt
        positions += range(len(prompt))
        # The longest branch is computed together with the prompt, as one plainly causal text.
        for number, row in enumerate(sorted(family, key=lambda i: (-len(rows[i].completion_ids), i))):
            completion = rows[row].completion_ids
            branch = completion[:-1] if told == "tokens" else completion
            own = tuple(range(len(ids), len(ids) + len(branch)))
            ids += branch
            positions += range(len(prompt), len(prompt) + len(branch))
            if number == 0:
                entries.append(Entry(trunk + own, len(trunk) + len(own)))
            elif own:
                entries.append(Entry(trunk + own, len(own)))
            places[row] = own[-1:] if told == "end" else (trunk[-1], *own)
            # The state that a prompt ends in is everybody's, and looked out of once.
            looking = len(places[row]) - (told != "end" and number > 0)
            if looking:
                last.append(Entry(trunk + own, looking))
    asked = sorted({place for each in places.values() for place in each})
    at = {place: k for k, place in enumerate(asked)}
    found = tuple(tuple(at[place] for place in places[row]) for row in range(len(rows)))
    return Layout(tuple(ids), tuple(positions), tuple(entries), tuple(asked), tuple(last), found)


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
