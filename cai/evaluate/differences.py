"""Word differences between two texts, as pieces that are the same, removed or added.

Only the finding of differences lives here; how they look is the page's business.
"""

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

PieceKind = Literal["same", "removed", "added"]

_TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
_ALIKE = 0.35
"""Texts that share less than this of the shorter one's words are told apart as wholes: marking every other word
explains nothing."""


@dataclass(frozen=True, slots=True)
class Piece:
    kind: PieceKind
    text: str


def word_differences(before: str, after: str) -> list[Piece]:
    """Pieces that give `before` without the added ones, and `after` without the removed ones, to the letter."""
    old, new = _TOKEN.findall(before), _TOKEN.findall(after)
    matcher = SequenceMatcher(None, old, new, autojunk=False)
    if _shared_words(matcher, old, new) < _ALIKE:
        return _merged([Piece("removed", before), Piece("added", after)])
    pieces: list[Piece] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            pieces.append(Piece("same", "".join(old[i1:i2])))
        else:
            pieces += [Piece("removed", "".join(old[i1:i2])), Piece("added", "".join(new[j1:j2]))]
    return _merged(_without_islands(pieces))


def before_side(pieces: list[Piece]) -> list[Piece]:
    return _one_side(pieces, "added")


def after_side(pieces: list[Piece]) -> list[Piece]:
    return _one_side(pieces, "removed")


def _shared_words(matcher: SequenceMatcher[str], old: list[str], new: list[str]) -> float:
    """How many of the shorter text's words stand in both, in order. Texts without words share everything."""
    words = min(sum(map(_is_word, old)), sum(map(_is_word, new)))
    kept = sum(
        _is_word(token) for start, _, size in matcher.get_matching_blocks() for token in old[start : start + size]
    )
    return kept / words if words else 1.0


def _is_word(token: str) -> bool:
    return token[0].isalnum()


def _one_side(pieces: list[Piece], hidden: PieceKind) -> list[Piece]:
    """One text's pieces; nothing is marked when the texts share nothing, because then the mark says nothing."""
    shown = [piece for piece in pieces if piece.kind != hidden]
    if not any(piece.kind == "same" for piece in pieces):
        return [Piece("same", piece.text) for piece in shown]
    return [part for piece in shown for part in _trimmed(piece)]


def _trimmed(piece: Piece) -> list[Piece]:
    """A change without the space around it, which then stands unmarked."""
    core = piece.text.strip()
    if piece.kind == "same" or not core:
        return [Piece("same", piece.text)]
    before, _, after = piece.text.partition(core)
    parts = [Piece("same", before), Piece(piece.kind, core), Piece("same", after)]
    return [part for part in parts if part.text]


def _without_islands(pieces: list[Piece]) -> list[Piece]:
    """A lone space between two changes belongs to the change, on both sides."""
    result: list[Piece] = []
    for i, piece in enumerate(pieces):
        if piece.kind == "same" and piece.text.isspace() and 0 < i < len(pieces) - 1:
            result += [Piece("removed", piece.text), Piece("added", piece.text)]
        else:
            result.append(piece)
    return result


def _merged(pieces: list[Piece]) -> list[Piece]:
    """Neighbouring changes as one removal followed by one addition; empty pieces gone."""
    result: list[Piece] = []
    removed = added = ""
    for piece in [*pieces, Piece("same", "")]:
        if piece.kind == "removed":
            removed += piece.text
        elif piece.kind == "added":
            added += piece.text
        else:
            result += [Piece("removed", removed), Piece("added", added), piece]
            removed = added = ""
    return [piece for piece in result if piece.text]
