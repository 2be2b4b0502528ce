"""Kinds of poor text that the classifier was never trained on, made anew from pieces, for tests and `bench/quality.py`.

Each kind is told apart from those of `quality_make` by what it is, not by its words alone: another trade, another sort
of page, another way to lose the thread. Nothing here may ever be used to make the weights.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from cai.feedback.filters.quality_texts import read_pieces

PIECES = read_pieces(Path(__file__).with_name("unseen.txt"))

UNSEEN: dict[str, tuple[str, ...]] = {
    "spam": (
        "prize letters", "weight-loss ads", "coin pitches", "work-from-home offers", "follow-me posts",
        "account alarms", "inheritance letters",
    ),
    "repetition": ("stuttering", "loops", "counted loops", "two sentences in turn", "a tail that loops"),
    "boilerplate": ("cookie notices", "error pages", "shop pages", "mail footers", "forum frames", "player bars"),
    "salad": (
        "backwards", "keyword lists", "two texts interleaved", "sorted words", "small words only", "keyboard rows",
        "shuffled inside sentences",
    ),
}  # fmt: skip
"""Class to its kinds, written before the classifier was last changed."""

FRESH: dict[str, tuple[str, ...]] = {
    "spam": ("essay mills", "fortune tellers", "ticket touts"),
    "repetition": ("one item again and again",),
    "boilerplate": ("game menus", "receipts"),
    "salad": ("every third word",),
}
"""Kinds that were written after the classifier was last changed, and that it was never tuned on at all."""


def texts_of(kind: str, prose: Sequence[str], n: int = 100) -> list[str]:
    rng = random.Random(kind)
    if kind in PIECES:
        return [_joined(rng, PIECES[kind]) for _ in range(n)]
    return [_MAKERS[kind](rng, prose) for _ in range(n)]


def _joined(rng: random.Random, pieces: Sequence[str]) -> str:
    """Pieces in any order, each once before any comes again; at least 25 words, since fewer are not judged."""
    said: list[str] = []
    wanted = rng.randint(25, 90)
    while len(" ".join(said).split()) < wanted:
        said += rng.sample(pieces, len(pieces))
    while len(" ".join(said[:-1]).split()) >= wanted:
        said.pop()
    numbered = [piece.replace("{n}", str(rng.randint(1, 999))) for piece in said]
    return rng.choice([" ", "\n"]).join(numbered)


def _words(rng: random.Random, prose: Sequence[str]) -> list[str]:
    return rng.choice(prose).split()


def _stuttering(rng: random.Random, prose: Sequence[str]) -> str:
    return " ".join(word for word in _words(rng, prose)[:40] for _ in range(3))


def _loops(rng: random.Random, prose: Sequence[str]) -> str:
    return ". ".join([" ".join(_words(rng, prose)[:9])] * 8)


def _counted(rng: random.Random, prose: Sequence[str]) -> str:
    said = " ".join(_words(rng, prose)[: rng.randint(4, 9)]).rstrip(".,;:")
    name = rng.choice(["Step", "Point", "Rule", "Reason"])
    return rng.choice([" ", "\n"]).join(f"{name} {i}: {said}." for i in range(1, rng.randint(7, 14)))


def _in_turn(rng: random.Random, prose: Sequence[str]) -> str:
    two = [" ".join(_words(rng, prose)[: rng.randint(5, 12)]).rstrip(".,;:") + "." for _ in range(2)]
    return " ".join(two * rng.randint(4, 8))


def _tail(rng: random.Random, prose: Sequence[str]) -> str:
    words = _words(rng, prose)
    return " ".join(words[:25] + words[25:28] * rng.randint(12, 25))


def _keywords(rng: random.Random, prose: Sequence[str]) -> str:
    keys = rng.sample(sorted({word for word in _words(rng, prose) if word.isalpha()}), 4)
    return ", ".join(" ".join(rng.choices(keys, k=3)) for _ in range(14))


def _backwards(rng: random.Random, prose: Sequence[str]) -> str:
    return " ".join(reversed(_words(rng, prose)))


def _interleaved(rng: random.Random, prose: Sequence[str]) -> str:
    first, second = _words(rng, prose)[:40], _words(rng, prose)[:40]
    return " ".join(word for both in zip(first, second, strict=False) for word in both)


def _sorted(rng: random.Random, prose: Sequence[str]) -> str:
    return " ".join(sorted(_words(rng, prose)[:60], key=str.lower))


def _small(rng: random.Random, prose: Sequence[str]) -> str:
    found = [word for text in rng.sample(list(prose), 4) for word in text.split() if len(word) < 4]
    return " ".join(rng.sample(found, min(45, len(found))))


def _keyboard(rng: random.Random, _: Sequence[str]) -> str:
    rows = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
    return " ".join("".join(rng.choices(rng.choice(rows), k=rng.randint(2, 8))) for _ in range(rng.randint(25, 60)))


def _inside(rng: random.Random, prose: Sequence[str]) -> str:
    sentences = [sentence.split() for sentence in rng.choice(prose).split(". ")]
    for sentence in sentences:
        rng.shuffle(sentence)
    return ". ".join(" ".join(sentence) for sentence in sentences)


def _items(rng: random.Random, prose: Sequence[str]) -> str:
    said = " ".join(_words(rng, prose)[: rng.randint(3, 8)]).rstrip(".,;:")
    return "\n".join([" ".join(_words(rng, prose)[:8]) + ":", *[f"- {said}"] * rng.randint(7, 15)])


def _thirds(rng: random.Random, prose: Sequence[str]) -> str:
    return " ".join(word for _ in range(3) for word in _words(rng, prose)[::3])


_MAKERS: dict[str, Callable[[random.Random, Sequence[str]], str]] = {
    "stuttering": _stuttering,
    "loops": _loops,
    "counted loops": _counted,
    "two sentences in turn": _in_turn,
    "a tail that loops": _tail,
    "keyword lists": _keywords,
    "backwards": _backwards,
    "two texts interleaved": _interleaved,
    "sorted words": _sorted,
    "small words only": _small,
    "keyboard rows": _keyboard,
    "shuffled inside sentences": _inside,
    "one item again and again": _items,
    "every third word": _thirds,
}
