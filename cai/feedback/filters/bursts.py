"""Phrases that stand in far more rows than their parts and contexts explain, learned from the data itself.

Closers, preambles, boilerplate and emoji that a model repeats whatever it is asked. There is no list of phrases: a run
of words is a burst when

- it stands in many rows (`min_share` of them),
- its parts do not explain it: with its own occurrences left out, a bigram model of the same data expects it at least
  2**`MIN_BITS` times more seldom than it stands there,
- its contexts do not explain it: no word of the prompts, or of the answers around it, goes with the rows that have it.

Learning takes a sample of at most `SAMPLE` rows, so that time and memory stay flat; finding takes each row as it comes.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cai.feedback.filters.words import is_symbol, words
from cai.seeds import derive

SAMPLE = 10_000
MIN_BITS = 27.0
"""No phrase of 2,300 pairs of hh-rlhf reaches it; nearly every phrase of three and more random words lies above."""
MIN_WORDS, MAX_WORDS = 3, 12
MIN_ROWS = 5
_SYMBOL_SHARE, _SYMBOL_AT_END = 0.02, 0.8
_SAME = 0.8
_SMOOTHING = 5.0
_BY_CHANCE = 1
"""Words that meet once outside a phrase are no habit of the language: chance, or a copy with a word changed."""
_LOOKED_AT = 400
_CONTEXT_COVER, _CONTEXT_LOG_P = 0.5, -18.0

Ints = npt.NDArray[np.int64]
Rows = frozenset[int]


@dataclass(frozen=True, slots=True)
class Burst:
    """`rows` counts among `of` rows that were learned from; `bits` is how far its parts fail to explain it."""

    phrase: str
    rows: int
    of: int
    bits: float

    @property
    def share(self) -> float:
        return self.rows / self.of


@dataclass
class Sampled:
    """Rows as number runs: answers with -1 between them, and the words of the prompts. It grows by `add`."""

    limit: int = SAMPLE
    seed: int = 0
    seen: int = 0
    kept: "dict[int, tuple[array[int], array[int]]]" = field(default_factory=dict)
    vocabulary: dict[str, int] = field(default_factory=dict)

    def add(self, prompt: str, answers: Sequence[str]) -> None:
        """Reservoir sampling (Vitter's algorithm R) with a number drawn from the row's place."""
        number, self.seen = self.seen, self.seen + 1
        place = number if number < self.limit else derive(self.seed, "burst sample", number) % (number + 1)
        if place >= self.limit:
            return
        tokens = array("q")
        for answer in answers:
            tokens.extend(self._numbers(answer))
            tokens.append(-1)
        self.kept[place] = (array("q", sorted(set(self._numbers(prompt)))), tokens)

    def _numbers(self, text: str) -> Iterable[int]:
        known = self.vocabulary
        return [known.setdefault(word, len(known)) for word in words(text)]


@dataclass(frozen=True, slots=True)
class _Grams:
    """Runs of one length that stand in enough rows: where each begins (-1 elsewhere), and its counts."""

    size: int
    begins: Ints
    rows: Ints
    count: Ints
    first: Ints


@dataclass(frozen=True, slots=True)
class _Found:
    phrase: tuple[int, ...]
    rows: Rows
    bits: float


def find_bursts(sample: Sampled, min_share: float = 0.003) -> list[Burst]:
    """The bursts of these rows, the most frequent first."""
    n = len(sample.kept)
    if n < 2 * MIN_ROWS:
        return []
    need = max(MIN_ROWS, math.ceil(min_share * n))
    tokens = np.concatenate([np.asarray(row, dtype=np.int64) for _, row in sample.kept.values()])
    lengths = [len(row) for _, row in sample.kept.values()]
    row_of = np.repeat(np.arange(n, dtype=np.int64), lengths)
    levels = _frequent(tokens, row_of, n, need)
    names = list(sample.vocabulary)
    surprising = _surprising(levels, tokens, row_of, len(names))
    context = _Context.of(sample, tokens, row_of, levels)
    found = [each for each in surprising if not context.explains(each.rows)]
    found += _closing_symbols(tokens, row_of, names, n)
    chosen = _without_copies(found)
    bursts = [Burst(" ".join(names[i] for i in each.phrase), len(each.rows), n, each.bits) for each in chosen]
    return sorted(bursts, key=lambda burst: (-burst.rows, burst.phrase))


def burst_in(text: str, bursts: Sequence[Burst]) -> Burst | None:
    """The first of the bursts that the text has."""
    if not bursts:
        return None
    joined = f" {' '.join(words(text))} "
    return next((burst for burst in bursts if f" {burst.phrase} " in joined), None)


def _frequent(tokens: Ints, row_of: Ints, n: int, need: int) -> dict[int, _Grams]:
    """Runs of 1 to MAX_WORDS words that stand in at least `need` rows, longer ones only from frequent shorter ones."""
    levels: dict[int, _Grams] = {}
    begins = np.where(tokens >= 0, tokens, -1)
    for size in range(1, MAX_WORDS + 1):
        if size == 1:
            key, at = tokens, np.nonzero(tokens >= 0)[0]
        else:
            key = begins[:-1] * (int(begins.max()) + 2) + begins[1:]
            at = np.nonzero((begins[:-1] >= 0) & (begins[1:] >= 0))[0]
        if not len(at):
            break
        _, first, inverse, count = np.unique(key[at], return_index=True, return_inverse=True, return_counts=True)
        in_rows = np.bincount(_distinct(inverse * n + row_of[at]) // n, minlength=len(count))
        keep = in_rows >= need
        numbered = np.where(keep, np.cumsum(keep) - 1, -1)
        begins = np.full(len(tokens), -1, dtype=np.int64)
        begins[at] = numbered[inverse]
        levels[size] = _Grams(size, begins, in_rows[keep], count[keep], at[first[keep]])
        if not keep.any():
            break
    return levels


def _distinct(values: Ints) -> Ints:
    """Each value once, in order: `np.unique` hashes long integers one by one, which takes ten times as long."""
    ordered = np.sort(values)
    fresh = np.ones(len(ordered), dtype=bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return ordered[fresh]


def _surprising(levels: dict[int, _Grams], tokens: Ints, row_of: Ints, vocabulary: int) -> list[_Found]:
    """Runs that no longer run nearly always stands around, and that their parts do not explain."""
    parts = _Parts.of(tokens, vocabulary)
    scored: list[tuple[float, _Grams, int]] = []
    for size, grams in levels.items():
        if size < MIN_WORDS:
            continue
        longest = np.zeros(len(grams.rows), dtype=np.int64)
        if size + 1 in levels:
            longer = levels[size + 1]
            at = np.nonzero(longer.begins >= 0)[0]
            for inside in (at, at + 1):
                np.maximum.at(longest, grams.begins[inside], longer.rows[longer.begins[at]])
        for i in np.nonzero(longest < _SAME * grams.rows)[0]:
            begin = int(grams.first[i])
            bits = parts.bits(tokens[begin : begin + size], int(grams.count[i]))
            if bits >= MIN_BITS:
                scored.append((bits, grams, int(i)))
    scored.sort(key=lambda each: -int(each[1].rows[each[2]]))
    found = []
    for bits, grams, number in scored[:_LOOKED_AT]:
        begin = int(grams.first[number])
        phrase = tuple(int(word) for word in tokens[begin : begin + grams.size])
        found.append(_Found(phrase, frozenset(map(int, _distinct(row_of[grams.begins == number]))), bits))
    return found


@dataclass(frozen=True, slots=True)
class _Parts:
    """Counts of words and of neighbours, to say how often a phrase would come together by itself."""

    single: Ints
    pair_keys: Ints
    pair_counts: Ints
    total: int

    @classmethod
    def of(cls, tokens: Ints, vocabulary: int) -> "_Parts":
        both = (tokens[:-1] >= 0) & (tokens[1:] >= 0)
        keys, counts = np.unique(tokens[:-1][both] * vocabulary + tokens[1:][both], return_counts=True)
        single = np.bincount(tokens[tokens >= 0], minlength=vocabulary)
        return cls(single, keys, counts, int(single.sum()))

    def bits(self, phrase: Ints, count: int) -> float:
        """log2 of the observed count over the count that neighbours outside the phrase's own occurrences expect."""
        outside = np.maximum(self.single[phrase] - count, 0)
        expected = math.log2(outside[0] + 0.5)
        for i in range(len(phrase) - 1):
            pair = max(self._pair(int(phrase[i]), int(phrase[i + 1])) - count - _BY_CHANCE, 0)
            alone = _SMOOTHING * (outside[i + 1] + 0.5) / self.total
            expected += math.log2((pair + alone) / (outside[i] + _SMOOTHING))
        return math.log2(count) - expected

    def _pair(self, first: int, second: int) -> int:
        key = first * len(self.single) + second
        at = int(np.searchsorted(self.pair_keys, key))
        return int(self.pair_counts[at]) if at < len(self.pair_keys) and self.pair_keys[at] == key else 0


@dataclass(frozen=True, slots=True)
class _Context:
    """Which words stand in which rows: those of the prompt, and those of the answers that no frequent run covers."""

    word: Ints
    row: Ints
    rows_with: Ints
    n: int

    @classmethod
    def of(cls, sample: Sampled, tokens: Ints, row_of: Ints, levels: dict[int, _Grams]) -> "_Context":
        covered = tokens < 0
        if MIN_WORDS in levels:
            at = np.nonzero(levels[MIN_WORDS].begins >= 0)[0]
            for offset in range(MIN_WORDS):
                covered[at + offset] = True
        prompts = [np.asarray(prompt, dtype=np.int64) for prompt, _ in sample.kept.values()]
        rows = np.repeat(np.arange(len(prompts), dtype=np.int64), [len(prompt) for prompt in prompts])
        word, row = np.concatenate([*prompts, tokens[~covered]]), np.concatenate([rows, row_of[~covered]])
        n, size = len(prompts), max(len(sample.vocabulary), 1)
        both = _distinct(row * size + word)
        return cls(both % size, both // size, np.bincount(both % size, minlength=size), n)

    def explains(self, rows: Rows) -> bool:
        """Whether some word comes with most of these rows, and far more often than with the others.

        The chance of so many rows with the word is bounded by Chernoff: log p <= -n KL(seen || expected).
        """
        inside = np.zeros(self.n, dtype=bool)
        inside[list(rows)] = True
        seen = np.bincount(self.word[inside[self.row]], minlength=len(self.rows_with)) / len(rows)
        expected = np.clip(self.rows_with / self.n, 1e-9, 1 - 1e-9)
        likely = (seen >= _CONTEXT_COVER) & (seen > expected)
        p, q = np.clip(seen[likely], 1e-9, 1 - 1e-9), expected[likely]
        divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
        return bool((-len(rows) * divergence < _CONTEXT_LOG_P).any())


def _closing_symbols(tokens: Ints, row_of: Ints, names: Sequence[str], n: int) -> list[_Found]:
    """Emoji and other symbols that mostly begin or end an answer, in many rows. A single sign has no parts."""
    symbols = np.array([is_symbol(name) for name in names] or [False])
    at = np.nonzero((tokens >= 0) & symbols[np.maximum(tokens, 0)])[0]
    before, after = np.concatenate([[-1], tokens[:-1]]), np.concatenate([tokens[1:], [-1]])
    found = []
    for sign in np.unique(tokens[at]):
        own = at[tokens[at] == sign]
        rows = np.unique(row_of[own])
        edge = float(((before[own] < 0) | (after[own] < 0)).mean())
        if len(rows) >= max(MIN_ROWS, _SYMBOL_SHARE * n) and edge >= _SYMBOL_AT_END:
            found.append(_Found((int(sign),), frozenset(map(int, rows)), 0.0))
    return found


def _without_copies(found: Sequence[_Found]) -> list[_Found]:
    """One of each family: a phrase with more around it, or shifted by a word, tells of the same rows again."""
    chosen: list[_Found] = []
    for each in sorted(found, key=lambda f: (-len(f.rows), len(f.phrase), f.phrase)):
        if not any(_overlap(each.phrase, other.phrase) and _mostly(each.rows, other.rows) for other in chosen):
            chosen.append(each)
    return chosen


def _mostly(rows: Rows, others: Rows) -> bool:
    return len(rows & others) >= 0.5 * len(rows)


def _overlap(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    size = min(MIN_WORDS, len(a), len(b))
    runs = {a[i : i + size] for i in range(len(a) - size + 1)}
    return any(b[i : i + size] in runs for i in range(len(b) - size + 1))
