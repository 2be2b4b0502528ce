"""Which answers are learned from: revisions that changed something, and a share of those no critic changed."""

import pytest

from cai.pipeline.sft_rows import Selection, select_examples
from cai.pipeline.training_configs import SftStageConfig
from cai.records import Lineage, Revision, Round, new_prompt

LINEAGE = Lineage("c", "f", 0)


def revision(name: str, *texts: str) -> Revision:
    """A first answer and what each round made of it."""
    initial, *later = texts
    rounds, before = [], initial
    for text in later:
        rounds.append(Round("p", "critique", text, text != before))
        before = text
    return Revision(new_prompt(f"Question {name}?"), initial, tuple(rounds), before, LINEAGE)


UNCHANGED = [revision(f"plain {i}", "fine", "fine", "fine") for i in range(10)]
TWICE = revision("twice", "bad", "better", "best")
ONCE = revision("once", "bad", "good", "good")
BACK = revision("back", "a", "b", "a")


def select(found: list[Revision], seed: int = 1, **settings: object) -> Selection:
    return select_examples(found, SftStageConfig.model_validate(settings), seed)


def told(selection: Selection) -> list[tuple[str, str]]:
    return [(example.kind, example.completion) for example in selection.examples]


def test_the_last_revision_is_learned() -> None:
    assert told(select([TWICE, ONCE], helpful="0")) == [("revision", "best"), ("revision", "good")]


def test_all_revisions_are_learned_when_asked_for() -> None:
    found = told(select([TWICE, ONCE], helpful="0", revisions="all"))
    assert found == [("revision", "better"), ("revision", "best"), ("revision", "good")]


@pytest.mark.parametrize(("helpful", "expected"), [("0", 0), ("0.5", 5), ("1", 10), ("3", 3), ("99", 10)])
def test_up_to_one_helpful_is_a_share_and_above_it_a_count(helpful: str, expected: int) -> None:
    selection = select([*UNCHANGED, ONCE], helpful=helpful)
    assert told(selection).count(("helpful", "fine")) == expected
    assert [reject.reason for reject in selection.rejects] == ["helpful answer not drawn"] * (10 - expected)
    assert ("revision", "good") in told(selection)


def test_which_helpful_answers_are_drawn_depends_on_the_seed_and_not_on_the_order() -> None:
    def ids(revisions: list[Revision], seed: int) -> set[str]:
        return {example.id for example in select(revisions, seed, helpful="0.5").examples}

    assert ids(UNCHANGED, 1) == ids(UNCHANGED[::-1], 1)
    assert len({frozenset(ids(UNCHANGED, seed)) for seed in range(10)}) > 5


def test_an_answer_that_was_changed_back_is_neither_a_revision_nor_helpful() -> None:
    selection = select([BACK], helpful="1")
    assert selection.examples == []
    assert [reject.reason for reject in selection.rejects] == ["changed and changed back"]


def test_the_same_row_is_learned_once() -> None:
    selection = select([ONCE, ONCE], helpful="1")
    assert len(selection.examples) == 1
    assert [reject.reason for reject in selection.rejects] == ["duplicate row"]


def test_a_count_must_be_whole() -> None:
    with pytest.raises(ValueError, match="a share up to 1, or a whole number"):
        SftStageConfig.model_validate({"helpful": "1.5"})
