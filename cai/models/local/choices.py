"""Weighing given continuations: one forward pass, no generation, on the kernel path of `logprobs`.

A continuation of one token needs no more than its prompt, so continuations that differ in their first token alone, such
as A and B, share one sequence.
"""

from collections.abc import Sequence

from cai.models.local.logprobs import MAX_BATCH_TOKENS, batch_plan, hidden_at
from cai.models.local.network import Network

Ids = tuple[int, ...]


def choice_logps(network: Network, rows: Sequence[tuple[Ids, Sequence[Ids]]]) -> list[list[float]]:
    """log p(continuation | prompt), summed over its tokens, for each continuation of each row."""
    sequences: list[Ids] = []
    starts: list[int] = []
    wanted: dict[tuple[int, int], tuple[int, Ids]] = {}
    for r, (prompt, options) in enumerate(rows):
        assert prompt and all(options), "a choice needs a prompt and no empty continuation"
        contexts = sorted({option[:-1] for option in options}, key=lambda ids: (-len(ids), ids))
        kept: list[Ids] = []
        for context in contexts:
            if not any(longer[: len(context)] == context for longer in kept):
                kept.append(context)
        for o, option in enumerate(options):
            holder = next(k for k, context in enumerate(kept) if context[: len(option) - 1] == option[:-1])
            wanted[r, o] = (len(sequences) + holder, option)
        sequences += [prompt + context for context in kept]
        starts += [len(prompt) - 1] * len(kept)
    logps = _token_logps(network, sequences, starts, wanted)
    return [[sum(logps[r, o]) for o in range(len(options))] for r, (_, options) in enumerate(rows)]


def _token_logps(
    network: Network,
    sequences: Sequence[Ids],
    starts: Sequence[int],
    wanted: dict[tuple[int, int], tuple[int, Ids]],
) -> dict[tuple[int, int], list[float]]:
    found: dict[tuple[int, int], list[float]] = {}
    users: dict[int, list[tuple[int, int]]] = {}
    for key, (sequence, _) in wanted.items():
        users.setdefault(sequence, []).append(key)
    for group in batch_plan([len(sequence) for sequence in sequences], MAX_BATCH_TOKENS):
        spans = [range(starts[s], len(sequences[s])) for s in group]
        hidden_ND = hidden_at(network, [sequences[s] for s in group], spans)
        offsets = dict(zip(group, _running([len(span) for span in spans]), strict=True))
        keys = [key for s in group for key in users[s]]
        index = [offsets[wanted[key][0]] + t for key in keys for t in range(len(wanted[key][1]))]
        targets = [token for key in keys for token in wanted[key][1]]
        logps = network.target_logps(hidden_ND[network.tensor(index)], network.tensor(targets)).tolist()
        for key, start in zip(keys, _running([len(wanted[key][1]) for key in keys]), strict=True):
            found[key] = logps[start : start + len(wanted[key][1])]
    return found


def _running(lengths: Sequence[int]) -> list[int]:
    """Where each part starts when parts of these lengths follow one another."""
    starts, at = [], 0
    for length in lengths:
        starts.append(at)
        at += length
    return starts
