"""What quantisation costs: the same model in several precisions, beside the one that is not quantised.

Measuring is `models.local.quantization`'s; here is what is asked, and how the answers compare.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cai.constitution.frames import LABELS, judge_messages
from cai.models.protocol import ChoiceRequest
from cai.models.tiny import phrasing
from cai.models.tiny.corpus import lesson
from cai.models.tiny.oracle import judge_pairs
from cai.records import Prompt
from cai.seeds import derive

if TYPE_CHECKING:
    from cai.models.local.quantization import Measured, Passage

QUESTIONS = 200
PASSAGES = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One precision. `agreement` and `shift` are against the model that is not quantised."""

    quantization: str
    bytes: int
    copies: int
    tokens_per_second: float
    perplexity: float
    agreement: float
    """The share of questions in which the likeliest option is the same."""
    shift: float
    """The mean distance of the first option's probability."""


def compared(measured: "Sequence[Measured]") -> list[Row]:
    """Each precision beside the first, which is the model as it is."""
    whole = measured[0].probabilities
    rows = []
    for each in measured:
        pairs = list(zip(whole, each.probabilities, strict=True))
        same = [_top(ours) == _top(theirs) for theirs, ours in pairs]
        moved = [abs(ours[0] - theirs[0]) for theirs, ours in pairs]
        rows.append(
            Row(
                each.quantization, each.bytes, each.copies, each.tokens_per_second, each.perplexity,
                sum(same) / len(same) if same else 1.0, sum(moved) / len(moved) if moved else 0.0,
            )
        )  # fmt: skip
    return rows


def embedded_questions(count: int = QUESTIONS) -> list[ChoiceRequest]:
    """Pairs of the embedded world, each in one of its two orders."""
    asked = []
    for number, pair in enumerate(judge_pairs("test", count)):
        preference = phrasing.preferences(pair.family, "test")[0]
        first, second = (pair.worse, pair.better) if number % 2 else (pair.better, pair.worse)
        messages = judge_messages(pair.prompt.messages, first, second, preference, derive("quantization", number))
        asked.append(ChoiceRequest(messages, LABELS))
    return asked


def embedded_passages(count: int = PASSAGES) -> "list[Passage]":
    """Conversations such as the embedded model learned from, in phrasings that it has not seen."""
    lessons = [lesson(derive("quantization", number), "test") for number in range(count)]
    return [(each.messages[:-1], each.messages[-1].content) for each in lessons]


def questions_of(prompts: Sequence[Prompt]) -> list[ChoiceRequest]:
    """Prompts of which each asks for A or B."""
    return [ChoiceRequest(prompt.messages, LABELS) for prompt in prompts]


def _top(shares: Sequence[float]) -> int:
    return max(range(len(shares)), key=shares.__getitem__)
