"""How precisions compare: agreement and shift by hand, and what is asked of the embedded model."""

import pytest

from cai.evaluate.quantization import compared, embedded_passages, embedded_questions, questions_of
from cai.models.local.spec import Quantization
from cai.records import new_prompt

torch = pytest.importorskip("torch")


def test_agreement_counts_the_likelier_option_and_shift_the_distance() -> None:
    """Of (.9, .1), (.4, .6), (.7, .3) the first stays, the second turns, the third stays: 2 of 3 agree, and the first
    option moves by 0, .2 and .1."""
    from cai.models.local.quantization import Measured

    whole = Measured("none", 400, 0, 10.0, 2.0, ((0.9, 0.1), (0.4, 0.6), (0.7, 0.3)))
    four = Measured("nf4", 60, 400, 5.0, 2.1, ((0.9, 0.1), (0.6, 0.4), (0.8, 0.2)))
    first, second = compared([whole, four])
    assert (first.agreement, first.shift) == (1.0, 0.0)
    assert (second.agreement, second.shift) == (pytest.approx(2 / 3), pytest.approx(0.1))
    assert (second.bytes, second.copies, second.perplexity) == (60, 400, 2.1)


def test_the_embedded_model_has_questions_in_both_orders_and_passages_of_its_own() -> None:
    asked = embedded_questions(20)
    assert len(asked) == 20
    assert {question.continuations for question in asked} == {("A", "B")}
    passages = embedded_passages(20)
    assert all(messages[-1].role == "user" and answer for messages, answer in passages)
    assert passages == embedded_passages(20)


def test_given_prompts_are_asked_as_they_are() -> None:
    prompt = new_prompt("Which is larger, A: a mouse, or B: a house? Reply with A or B.")
    assert questions_of([prompt])[0].messages == prompt.messages


def test_the_embedded_model_is_measured_in_every_precision() -> None:
    """Quantised weights are smaller, and the text is not much less likely; the same questions get nearly the same
    answers."""
    from cai.models.local.quantization import measure
    from cai.models.local.spec import ModelSpec

    passages, questions = embedded_passages(24), embedded_questions(24)
    kinds: tuple[Quantization, ...] = ("none", "int8", "nf4")
    rows = compared([measure(ModelSpec("tiny", quantization=kind), "", passages, questions) for kind in kinds])
    none, int8, nf4 = rows
    assert none.bytes > int8.bytes > nf4.bytes
    assert none.copies == int8.copies == 0 < nf4.copies
    assert all(1 < row.perplexity < 1.5 * none.perplexity for row in rows)
    assert int8.agreement >= 0.9
    assert nf4.agreement >= 0.8
    assert none.shift == 0 < nf4.shift


def test_a_text_is_read_in_windows() -> None:
    from cai.models.local.quantization import measure
    from cai.models.local.spec import ModelSpec

    text = "How do I clean a shoe? Take a brush and water, and rub. " * 40
    found = measure(ModelSpec("tiny", quantization="none"), text, [], [])
    assert found.perplexity > 1
    assert found.tokens_per_second > 0
    assert found.probabilities == ()
