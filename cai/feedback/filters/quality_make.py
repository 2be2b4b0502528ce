"""Makes the weights of `quality` from this project's own prose and from generated text. `python -m` writes them anew.

Nothing here is read from anywhere else. The kinds of poor text that tests measure on are not among these.
"""

import itertools
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cai.feedback.filters.quality import _WORD, CLASSES, WEIGHTS, Model, features, word_kind
from cai.files import write_atomic

PROSE = Path(__file__).with_name("prose.txt")
_SEED, _ROUNDS, _RATE, _DECAY = 17, 600, 0.5, 0.002
_EACH, _FOLDS = 160, 5

_GOODS = """
    watch phone shoes course loan ticket diet bag coin laptop pillow
    game lamp drone perfume sofa
""".split()  # noqa: SIM905
_HYPE = """
    amazing exclusive limited best hot new secret guaranteed incredible unbeatable instant
    premium
""".split()  # noqa: SIM905
_CALLS = """
    buy order call click join act save win claim subscribe register
    grab
""".split()  # noqa: SIM905
_PAGES = """
    Home About Contact Products News Login Register Help Search Blog Careers
    Shop Cart Account Sitemap
""".split()  # noqa: SIM905
_LEGAL = """
    privacy policy terms conditions cookies copyright rights reserved disclaimer newsletter settings
""".split()  # noqa: SIM905


def main() -> None:
    write_atomic(WEIGHTS, json.dumps(as_plain(make()), separators=(",", ":"), sort_keys=True) + "\n")


def as_plain(model: Model) -> dict[str, object]:
    return {name: getattr(model, name) for name in ("follows", "unseen", "means", "scales", "weights")}


def make() -> Model:
    rng = random.Random(_SEED)
    paragraphs = PROSE.read_text(encoding="utf-8").splitlines()
    texts, labels = [], []
    for fold in range(_FOLDS):
        # How words follow each other is learned on some paragraphs and used on others, as it will be on unknown text.
        learned = [paragraph for i, paragraph in enumerate(paragraphs) if i % _FOLDS != fold]
        follows, unseen = _follows(learned)
        for number, kind in enumerate(CLASSES):
            for _i in range(_EACH):
                text = _MAKERS[kind](rng, paragraphs[fold::_FOLDS])
                texts.append(features(text, follows, unseen))
                labels.append(number)
    values = np.array(texts)
    means, scales = values.mean(axis=0), values.std(axis=0) + 1e-6
    weights = _fit((values - means) / scales, np.array(labels))
    follows, unseen = _follows(paragraphs)
    named = {kind: _rounded(weights[:, i]) for i, kind in enumerate(CLASSES)}
    return Model(follows, unseen, _rounded(means), _rounded(scales), named)


def _rounded(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[float]:
    # Four places are the same on every machine; the last bits of a sum are not.
    return [round(float(value), 3) for value in values]


def _follows(paragraphs: Sequence[str]) -> tuple[dict[str, float], float]:
    """log10 of how much likelier each kind follows the other in prose than by chance; and what never did."""
    pairs: Counter[tuple[str, str]] = Counter()
    single: Counter[str] = Counter()
    for paragraph in paragraphs:
        kinds = [word_kind(token.lower()) for token in _WORD.findall(paragraph)]
        single.update(kinds)
        pairs.update(itertools.pairwise(kinds))
    total = single.total()
    lifts = {f"{a} {b}": math.log10((n + 0.3) * total / (single[a] * single[b])) for (a, b), n in pairs.items()}
    return {pair: round(min(max(lift, -1.0), 1.5), 2) for pair, lift in sorted(lifts.items())}, -1.0


def _fit(
    values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]",
    labels: "np.ndarray[tuple[int, ...], np.dtype[np.int_]]",
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    """Multinomial logistic regression by plain gradient descent, with weight decay."""
    x = np.hstack([values, np.ones((len(values), 1))])
    y = np.eye(len(CLASSES))[labels]
    w = np.zeros((x.shape[1], len(CLASSES)))
    for _ in range(_ROUNDS):
        logits = x @ w
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        w -= _RATE * (x.T @ (p - y) / len(x) + _DECAY * w)
    return w


def _prose(rng: random.Random, paragraphs: Sequence[str]) -> str:
    if rng.random() < 0.2:
        return _worked(rng)
    text = rng.choice(paragraphs)
    sentences = re.split(r"(?<=[.!?]) ", text)
    start = rng.randrange(len(sentences))
    part = " ".join(sentences[start : start + rng.randint(2, 8)])
    if len(part.split()) < 15:
        part = text
    if rng.random() < 0.15:
        # Lists are prose too.
        part = "\n".join(f"{i}. {sentence}" for i, sentence in enumerate(re.split(r"(?<=[.!?]) ", part), 1))
    if rng.random() < 0.1:
        part = part.replace(".", "!", 1)
    return part


def _worked(rng: random.Random) -> str:
    """A sum done step by step: honest text that says similar things again, with numbers."""
    thing, name = (
        rng.choice(["apples", "coins", "litres", "books", "eggs", "metres", "pupils", "cards"]),
        rng.choice(["Anna", "Ben", "Tom", "Mia"]),
    )
    have, lines = (
        rng.randint(3, 90),
        [f"{name} begins with some {thing}, and we want to know how many there are at the end."],
    )
    for step in range(1, rng.randint(3, 8)):
        more = rng.randint(2, 40)
        lines.append(
            rng.choice(
                [
                    f"Step {step}: add the {more} {thing} to the {have} {thing}, which gives {have + more} {thing}.",
                    f"Then {more} {thing} come to it, so the total is now {have} + {more} = {have + more} {thing}.",
                    f"Next, multiply the number of {thing} by {more}: {have} x {more} = {have * more}.",
                    f"{step}. To find the new number of {thing}, we take {more} and add it to {have}.",
                ]
            )
        )
        have += more
    lines.append(rng.choice([f"So the answer is {have} {thing}.", f"Therefore, {name} has {have} {thing} in the end."]))
    return rng.choice([" ", "\n", "\n\n"]).join(lines)


def _spam(rng: random.Random, _: Sequence[str]) -> str:
    lines = []
    for _i in range(rng.randint(3, 9)):
        good, hype, call = rng.choice(_GOODS), rng.choice(_HYPE), rng.choice(_CALLS)
        line = rng.choice(
            [
                f"{call} your {hype} {good} now!!!",
                f"{hype} {good} only ${rng.randint(5, 99)}!",
                f"{rng.randint(20, 90)}% off {good}, {call} today!",
                f"{call} here: www.{hype}-{good}.com",
                f"get the {hype} {good} you want, {hype} price, {hype} deal",
                f"{good} {good} {hype} {good} cheap {good} online",
            ]
        )
        lines.append(line.upper() if rng.random() < 0.3 else line)
    return rng.choice([" ", "\n"]).join(lines)


def _repetition(rng: random.Random, paragraphs: Sequence[str]) -> str:
    tokens = rng.choice(paragraphs).split()
    size = rng.choice([1, 2, 4, 8, 14])
    start = rng.randrange(max(len(tokens) - size, 1))
    piece = tokens[start : start + size]
    lead = tokens[: rng.randint(0, 15)]
    return " ".join(lead + piece * rng.randint(4, 20))


def _boilerplate(rng: random.Random, _: Sequence[str]) -> str:
    parts = []
    for _i in range(rng.randint(4, 12)):
        a, b = rng.choice(_PAGES), rng.choice(_LEGAL)
        parts.append(
            rng.choice(
                [
                    a,
                    f"{a} {rng.choice(_PAGES)}",
                    b.title(),
                    f"{b} {rng.choice(_LEGAL)}".title(),
                    f"© {rng.randint(1999, 2030)} All {b}",
                    f"Page {rng.randint(1, 40)} of {rng.randint(40, 90)}",
                    f"Posted by {a.lower()} on {rng.randint(1, 28)}/{rng.randint(1, 12)}",
                ]
            )
        )
    return rng.choice([" | ", " ", "\n", " » ", " - "]).join(parts)


def _salad(rng: random.Random, paragraphs: Sequence[str]) -> str:
    tokens = " ".join(rng.sample(list(paragraphs), 3)).split()
    way = rng.random()
    if way < 0.5:
        rng.shuffle(tokens)
    elif way < 0.7:
        tokens = [token for token in tokens if len(token) > 4]
        rng.shuffle(tokens)
    elif way < 0.85:
        vocabulary = sorted(set(tokens))
        tokens = [rng.choice(vocabulary) for _ in tokens]
    else:
        tokens = ["".join(rng.choice("abcdefghijklmnoprstuvwz") for _ in range(rng.randint(2, 9))) for _ in tokens]
    return " ".join(tokens[: rng.randint(20, 90)])


_MAKERS: dict[str, Callable[[random.Random, Sequence[str]], str]] = {
    "prose": _prose,
    "spam": _spam,
    "repetition": _repetition,
    "boilerplate": _boilerplate,
    "salad": _salad,
}

if __name__ == "__main__":
    main()
