"""Rows that stand in the data already: the same but for white space, or nearly the same by MinHash."""

import hashlib
from typing import cast

from cai.errors import InputError
from cai.feedback.clean import folded
from cai.feedback.filters.looking import Finding, Row, Sieve, answers_of, prompt_of
from cai.feedback.filters.words import shingles, words
from cai.store.formats.rows import Answered

# 16 bands of 6 rows: two rows alike by 0.8 meet with probability 1 - (1 - 0.8**6)**16 = 0.992, by 0.4 in 6 %.
_BANDS, _BAND_ROWS = 16, 6
_HASHES = _BANDS * _BAND_ROWS
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
    """Finds a row whose runs of three words are, by at least this share, those of an earlier row that was kept.

    The signatures of kept rows are all that grows with the data: about 2 KB a row.
    """
    if not 0.5 <= threshold <= 1:
        raise InputError("near duplicates", "the share must be between 0.5 and 1", threshold, "0.8 is the default")
    import numpy as np
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold, _HASHES, _BANDS)
    signatures = np.empty((1024, _HASHES), dtype=np.uint32)
    kept = 0

    def look(row: Row) -> Finding | None:
        nonlocal signatures, kept
        sketch = RMinHash(_HASHES, _SEED)
        sketch.update(shingles(words(" ".join([prompt_of(row), *answers_of(row).values()])), _SHINGLE))
        own = np.array(sketch.digest(), dtype=np.uint32)
        if candidates := cast(list[int], index.query(sketch)):
            alike = (signatures[candidates] == own).mean(axis=1)
            best = int(alike.argmax())
            if alike[best] >= threshold:
                detail = f"{alike[best]:.2f} of its runs of words are those of kept row {candidates[best] + 1}"
                return Finding("near duplicate", detail)
        if kept == len(signatures):
            signatures = np.concatenate([signatures, np.empty_like(signatures[: max(1024, kept // 4)])])
        signatures[kept] = own
        index.insert(kept, sketch)
        kept += 1
        return None

    return look
