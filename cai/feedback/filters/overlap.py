"""Training rows that a test set already holds: a prompt that is the same, or a long run of words in common."""

from collections.abc import Iterable

from cai.feedback.filters.looking import Finding, Row, Sieve, asked_in
from cai.feedback.filters.words import shingles, words

RUN = 8
"""Words in a row. A shorter text must be in the test set as a whole."""
_MIN_SHARE = 0.5


def overlap_with(test_texts: Iterable[str], run: int = RUN) -> Sieve:
    """Finds rows whose question has most of its runs of words in some test text, or is one."""
    known: set[int] = set()
    for text in test_texts:
        known.update(hash(piece) for piece in shingles(words(text), run))

    def look(row: Row) -> Finding | None:
        own = shingles(words(asked_in(row.prompt)), run)
        shared = sum(hash(piece) in known for piece in own)
        if own and shared >= _MIN_SHARE * len(own):
            detail = f"{shared} of {len(own)} runs of {run} words of the question stand in the test set"
            return Finding("in the test set", detail)
        return None

    return look
