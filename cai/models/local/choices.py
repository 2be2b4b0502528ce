"""Weighing given continuations: forward passes only, nothing is generated, and nothing that rows share is read twice.

What all rows begin with (few-shot comparisons, a system prompt) is read once for all of them. What a few rows share
beyond that (a request that several principles judge, a principle that judges in both orders) is read once in a tree:
texts in alphabetical order, each beginning with what it has in common with the one before. A continuation of one token
needs no more than its prompt, so continuations that differ in their first token alone, such as A and B, share a text.

Shapes: B trees, S columns of a tree, N scored tokens, D hidden width.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from cai.models.local.attention import Pass
from cai.models.local.decode import Memory, shared_states
from cai.models.local.logprobs import batch_plan
from cai.models.local.network import Network
from cai.models.local.prefix import alike, common_length

Ids = tuple[int, ...]

MAX_PASS_TOKENS = 2048
MAX_TREE_TOKENS = 1280
"""A tree grows no longer than this: attention within it costs its length squared, though branches never meet."""
MIN_SAVING = 0.15
"""A text joins a tree when at least this share of its tokens is there already."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A continuation of a row, and the position of its text whose output tells the first of its tokens."""

    row: int
    option: int
    ids: Ids
    told_at: int


@dataclass(frozen=True, slots=True)
class _Text:
    ids: Ids
    asked: tuple[_Asked, ...]


@dataclass(slots=True)
class _Tree:
    """Columns of tokens, and for each text the columns that it is read along."""

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    texts: list[_Text] = field(default_factory=list)
    paths: list[list[int]] = field(default_factory=list)

    def join(self, text: _Text, skipped: int) -> bool:
        """Take the text in, unless that saves too little or grows too long."""
        ids = text.ids[skipped:]
        same = common_length((self.texts[-1].ids[skipped:], ids)) if self.texts else 0
        length = len(self.ids) + len(ids) - same
        if self.texts and (length > MAX_TREE_TOKENS or same < MIN_SAVING * len(ids)):
            return False
        before = self.paths[-1][:same] if same else []
        self.paths.append([*before, *range(len(self.ids), length)])
        self.ids += ids[same:]
        self.positions += range(same, len(ids))
        self.texts.append(text)
        return True


def choice_logps(
    network: Network,
    rows: Sequence[tuple[Ids, Sequence[Ids]]],
    memory: Memory | None = None,
    max_tokens: int = MAX_PASS_TOKENS,
) -> list[list[float]]:
    """log p(continuation | prompt), summed over its tokens, for each continuation of each row."""
    with torch.inference_mode():
        return _choice_logps(network, rows, memory, max_tokens)


def _choice_logps(
    network: Network, rows: Sequence[tuple[Ids, Sequence[Ids]]], memory: Memory | None, max_tokens: int
) -> list[list[float]]:
    texts = [text for row, (prompt, options) in enumerate(rows) for text in _texts(row, prompt, options)]
    found: dict[tuple[int, int], float] = {}
    for group in alike([text.ids for text in texts]):
        prompts = [texts[t].ids[: texts[t].asked[0].told_at + 1] for t in group]
        shared = shared_states(network, prompts, memory)
        skipped = 0 if shared is None else len(shared.ids)
        trees = _trees([texts[t] for t in group], skipped)
        for batch in batch_plan([len(tree.ids) for tree in trees], max_tokens):
            chosen = [trees[t] for t in batch]
            run = _pass_over(network, chosen, skipped)
            run.shared = None if shared is None else shared.layers
            width = max(len(tree.ids) for tree in chosen)
            ids_BS = network.tensor([[*tree.ids, *[0] * (width - len(tree.ids))] for tree in chosen])
            found |= _told(network, network.pass_over(ids_BS, skipped + run.positions_BS, run), chosen, skipped)
    return [[found[row, option] for option in range(len(options))] for row, (_, options) in enumerate(rows)]


def _texts(row: int, prompt: Ids, options: Sequence[Ids]) -> list[_Text]:
    """What has to be read for one row, and what each text is asked."""
    assert prompt and all(options), "a choice needs a prompt and no empty continuation"
    contexts: list[Ids] = []
    for context in sorted({option[:-1] for option in options}, key=lambda ids: (-len(ids), ids)):
        if not any(longer[: len(context)] == context for longer in contexts):
            contexts.append(context)
    asked: list[list[_Asked]] = [[] for _ in contexts]
    for number, option in enumerate(options):
        holder = next(k for k, context in enumerate(contexts) if context[: len(option) - 1] == option[:-1])
        asked[holder].append(_Asked(row, number, option, len(prompt) - 1))
    return [_Text(prompt + context, tuple(own)) for context, own in zip(contexts, asked, strict=True)]


def _trees(texts: Sequence[_Text], skipped: int) -> list[_Tree]:
    trees: list[_Tree] = []
    for text in sorted(texts, key=lambda text: (text.ids, text.asked[0].row)):
        if not trees or not trees[-1].join(text, skipped):
            trees.append(_Tree())
            trees[-1].join(text, skipped)
    return trees


def _pass_over(network: Network, trees: Sequence[_Tree], skipped: int) -> Pass:
    """Positions and kinship of the trees' columns, as right-padded rows."""
    width = max(len(tree.ids) for tree in trees)
    if all(len(tree.texts) == 1 for tree in trees):
        return Pass(torch.arange(width, device=network.device)[None])
    positions = [[*tree.positions, *[0] * (width - len(tree.ids))] for tree in trees]
    related_BSS = torch.eye(width, dtype=torch.bool).repeat(len(trees), 1, 1)
    for number, tree in enumerate(trees):
        done = 0
        for path in tree.paths:
            last = path[-1] + 1
            related_BSS[number, done:last, path] = True
            done = max(done, last)
    told = [[column for _, columns in _told_at(tree, skipped) for column in columns] for tree in trees]
    most = max(map(len, told))
    asked_BA = network.tensor([[*columns, *[columns[-1]] * (most - len(columns))] for columns in told])
    return Pass(network.tensor(positions), related_BSS=related_BSS.to(network.device), asked_BA=asked_BA)


def _told_at(tree: _Tree, skipped: int) -> Iterator[tuple[_Asked, list[int]]]:
    """For each continuation the columns whose outputs tell its tokens."""
    for text, path in zip(tree.texts, tree.paths, strict=True):
        for own in text.asked:
            first = own.told_at - skipped
            yield own, path[first : first + len(own.ids)]


def _told(
    network: Network, hidden_BSD: torch.Tensor, trees: Sequence[_Tree], skipped: int
) -> dict[tuple[int, int], float]:
    """The summed log-probabilities that one pass tells."""
    width = hidden_BSD.shape[1]
    index: list[int] = []
    asked: list[_Asked] = []
    for number, tree in enumerate(trees):
        for own, columns in _told_at(tree, skipped):
            index += [number * width + column for column in columns]
            asked.append(own)
    hidden_ND = hidden_BSD.reshape(-1, hidden_BSD.shape[-1])[network.tensor(index)]
    logps_N = network.target_logps(hidden_ND, network.tensor([token for own in asked for token in own.ids]))
    parts = logps_N.split([len(own.ids) for own in asked])
    return {(own.row, own.option): float(part.sum()) for own, part in zip(asked, parts, strict=True)}
