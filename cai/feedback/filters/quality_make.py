"""Makes the weights of `quality` from this project's own prose and from generated text. `python -m` writes them anew.

Nothing here is read from anywhere else. What the generated text is like stands in `quality_texts`.
"""

import itertools
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cai.feedback.filters.quality import _WORD, CLASSES, WEIGHTS, Model, features, word_kind
from cai.feedback.filters.quality_texts import MAKERS
from cai.files import write_atomic

PROSE = Path(__file__).with_name("prose.txt")
"""Of this project's guides."""
ANSWERS = Path(__file__).with_name("answers.txt")
"""Answers as people want them, about everyday things; advertising's words stand in them for honest reasons."""
_SEED, _ROUNDS, _RATE, _DECAY = 17, 1500, 0.5, 0.001
_EACH, _FOLDS = 240, 5
_PROSE_TIMES = 2
"""Prose is what most texts are, and has the most layouts."""


def main() -> None:
    write_atomic(WEIGHTS, json.dumps(as_plain(make()), separators=(",", ":"), sort_keys=True) + "\n")


def as_plain(model: Model) -> dict[str, object]:
    return {name: getattr(model, name) for name in ("follows", "unseen", "means", "scales", "weights")}


def make() -> Model:
    rng = random.Random(_SEED)
    sources = [path.read_text(encoding="utf-8").splitlines() for path in (PROSE, ANSWERS)]
    texts, labels = [], []
    for fold in range(_FOLDS):
        # How words follow each other is learned on some paragraphs and used on others, as it will be on unknown text.
        follows, unseen = _follows(_evenly([_without(source, fold) for source in sources]))
        drawn = _evenly([source[fold::_FOLDS] for source in sources])
        for number, kind in enumerate(CLASSES):
            for _i in range(_EACH * (_PROSE_TIMES if kind == "prose" else 1)):
                text = MAKERS[kind](rng, drawn)
                texts.append(features(text, follows, unseen))
                labels.append(number)
    values = np.array(texts)
    means, scales = values.mean(axis=0), values.std(axis=0) + 1e-4
    weights = _fit((values - means) / scales, np.array(labels))
    follows, unseen = _follows(_evenly(sources))
    named = {kind: _rounded(weights[:, i]) for i, kind in enumerate(CLASSES)}
    return Model(follows, unseen, _rounded(means), _rounded(scales), named)


def _evenly(sources: Sequence[Sequence[str]]) -> list[str]:
    """All of them, the shorter ones several times, so that few answers count as much as many paragraphs of guides."""
    longest = max(map(len, sources))
    return [paragraph for source in sources for paragraph in [*source] * (longest // len(source))]


def _without(source: Sequence[str], fold: int) -> list[str]:
    return [paragraph for i, paragraph in enumerate(source) if i % _FOLDS != fold]


def _rounded(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[float]:
    # Four places are the same on every machine; the last bits of a sum are not.
    return [round(float(value), 4) for value in values]


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


if __name__ == "__main__":
    main()
