"""Word differences: nothing is lost, and only what changed is marked."""

from hypothesis import given
from hypothesis import strategies as st

from cai.evaluate.differences import Piece, after_side, before_side, word_differences


def text_of(pieces: list[Piece], hidden: str) -> str:
    return "".join(piece.text for piece in pieces if piece.kind != hidden)


@given(st.text("ab c.\n<", max_size=40), st.text("ab c.\n<", max_size=40))
def test_pieces_give_both_texts_back_to_the_letter(before: str, after: str) -> None:
    pieces = word_differences(before, after)
    assert text_of(pieces, "added") == before
    assert text_of(pieces, "removed") == after
    assert text_of(before_side(pieces), "added") == before
    assert text_of(after_side(pieces), "removed") == after


def test_only_the_words_that_changed_are_marked() -> None:
    pieces = word_differences("Take a feather and kill the weeds.", "Take a trumpet and kill the weeds.")
    assert [piece for piece in pieces if piece.kind != "same"] == [
        Piece("removed", "feather"),
        Piece("added", "trumpet"),
    ]


def test_a_change_of_several_words_is_one_piece() -> None:
    pieces = word_differences("The old red door is here today.", "The new blue door is here today.")
    assert [piece.text for piece in pieces if piece.kind == "removed"] == ["old red"]
    assert [piece.text for piece in pieces if piece.kind == "added"] == ["new blue"]


def test_equal_texts_have_no_differences() -> None:
    assert word_differences("the same", "the same") == [Piece("same", "the same")]


def test_texts_that_share_almost_nothing_are_not_marked_word_by_word() -> None:
    pieces = word_differences("In the castle use a lantern.", "Sorry, but I will never do that to anyone.")
    assert [piece.kind for piece in pieces] == ["removed", "added"]
    assert [piece.kind for piece in before_side(pieces)] == ["same"]


def test_the_space_around_a_change_is_not_marked() -> None:
    pieces = word_differences("It is in the attic. So they say, anyway.", "It is in the attic.")
    assert Piece("removed", "So they say, anyway.") in before_side(pieces)
