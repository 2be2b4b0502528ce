"""Rows that stand in the data already: the same but for white space, or nearly the same by MinHash."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from cai.errors import InputError
from cai.feedback.clean import folded
from cai.feedback.filters.looking import Finding, Row, Sieve, answers_of, prompt_of
from cai.feedback.filters.words import shingles, words
from cai.store.formats.rows import Answered

if TYPE_CHECKING:
    import numpy as np
    from rensa import RMinHash

# 16 bands of 6 rows: two rows alike by 0.8 meet with probability 1 - (1 - 0.8**6)**16 = 0.992, by 0.4 in 6 %.
_HASHES, _BAND_ROWS = 96, 6
_SEED = 17
_SHINGLE = 3


def exact_duplicates() -> Sieve:
    """Finds a row that an earlier one equals, also where the two answers have changed places."""
    seen: dict[bytes, bytes] = {}

    def look(row: Row) -> Finding | None:
        said = [" ".join(text.split()) for text in answers_of(row).values()]
        label = str(row.label) if isinstance(row, Answered) else ""
        asked = folded("\n".join(f"{m.role}: {m.content}" for m in row.prompt.messages))
        key, order = _hash(asked, label, *sorted(said)), _hash(*said)
        before = seen.setdefault(key, order)
        if before is order:
            return None
        if before == order:
            return Finding("exact duplicate", "the same row stands earlier")
        return Finding("swapped duplicate", "an earlier row has the same answers the other way round")

    return look


def _hash(*texts: str) -> bytes:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=12).digest()


def near_duplicates(threshold: float = 0.8) -> Sieve:
    """Finds a row whose runs of three words are, by at least this share, those of an earlier row that was kept."""
    known = NearTexts(threshold)

    def look(row: Row) -> Finding | None:
        text = known.sketched(" ".join([prompt_of(row), *answers_of(row).values()]))
        if near := known.nearest(text):
            detail = f"{near.share:.2f} of its runs of words are those of kept row {near.place + 1}"
            return Finding("near duplicate", detail)
        known.add(text)
        return None

    return look


@dataclass(frozen=True, slots=True)
class Near:
    """Which of the texts is nearest, counted from 0, and the share of runs of words that both have."""

    place: int
    share: float


@dataclass(frozen=True, slots=True)
class Sketch:
    """A text as MinHash sees it."""

    hashes: "RMinHash"
    signature: "np.ndarray"


class NearTexts:
    """Texts that are known, and which of them a new one nearly repeats.

    The signatures are all that grows with the texts: about 2 KB for each. `run` is how many words are compared at a
    time: short texts need short runs. `band_rows` must be low enough for the threshold: two texts alike by it meet
    with probability 1 - (1 - threshold**band_rows)**(96 / band_rows).
    """

    def __init__(self, threshold: float, run: int = _SHINGLE, band_rows: int = _BAND_ROWS) -> None:
        if not 0.5 <= threshold <= 1:
            raise InputError("near duplicates", "the share must be between 0.5 and 1", threshold, "0.8 is the default")
        import numpy as np
        from rensa import RMinHashLSH

        self._threshold = threshold
        self._run = run
        self._index = RMinHashLSH(threshold, _HASHES, _HASHES // band_rows)
        self._signatures = np.empty((1024, _HASHES), dtype=np.uint32)
        self._count = 0

    def sketched(self, text: str) -> Sketch:
        import numpy as np
        from rensa import RMinHash

        hashes = RMinHash(_HASHES, _SEED)
        hashes.update(shingles(words(text), self._run))
        return Sketch(hashes, np.array(hashes.digest(), dtype=np.uint32))

    def nearest(self, text: Sketch) -> Near | None:
        """The nearest known text, if it is near enough."""
        candidates = cast(list[int], self._index.query(text.hashes))
        if not candidates:
            return None
        alike = (self._signatures[candidates] == text.signature).mean(axis=1)
        best = int(alike.argmax())
        share = float(alike[best])
        return Near(candidates[best], share) if share >= self._threshold else None

    def add(self, text: Sketch) -> None:
        import numpy as np

        if self._count == len(self._signatures):
            more = np.empty_like(self._signatures[: max(1024, self._count // 4)])
            self._signatures = np.concatenate([self._signatures, more])
        self._signatures[self._count] = text.signature
        self._index.insert(self._count, text.hashes)
        self._count += 1
