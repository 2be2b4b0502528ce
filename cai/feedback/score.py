"""One answer on a scale from 1 to 10, by what the judge expects to say: Σ i·P(i) (direct RLAIF, arXiv 2309.00267)."""

from collections.abc import Sequence
from dataclasses import dataclass

from cai.constitution.frames import SCORES, score_messages
from cai.constitution.model import Principle
from cai.errors import CaiError
from cai.feedback.asking import label_probabilities
from cai.feedback.clean import is_trivial, without_reasoning
from cai.feedback.guard import guarded_for
from cai.models.protocol import ChoiceRequest, Model, all_told
from cai.records import Prompt
from cai.seeds import derive

WORST = float(SCORES[0])


@dataclass(frozen=True, slots=True)
class Rated:
    """An answer, and the principle that it is rated by."""

    prompt: Prompt
    answer: str
    principle: Principle

    @property
    def shown(self) -> str:
        return without_reasoning(self.answer)


def score(asked: Sequence[Rated], model: Model, seed: int) -> list[float]:
    """The expected score of each answer. The judge is asked in one call, and but once of what is the same. An answer
    that says nothing gets the worst, and so does one that speaks to the judge."""
    keys = [(each.prompt.id, each.shown, each.principle.preference) for each in asked]
    first = dict(zip(reversed(keys), reversed(asked), strict=True))
    requests = {key: _request(each, seed) for key, each in first.items() if _is_weighed(each)}
    choices = all_told(model, model.choose(list(requests.values()))) if requests else []
    scores = dict.fromkeys(first, WORST)
    for key, choice in zip(requests, choices, strict=True):
        probabilities = label_probabilities(choice, len(SCORES))
        if probabilities is None:
            raise CaiError(
                f"model {model.name!r}: it gave no probability for every score from 1 to 10, got {choice.logprobs}; "
                f"principle {first[key].principle.id!r} needs a model that can weigh given texts"
            )
        scores[key] = sum(float(label) * p for label, p in zip(SCORES, probabilities, strict=True))
    return [scores[key] for key in keys]


def _is_weighed(each: Rated) -> bool:
    return not (is_trivial(each.shown) or guarded_for(each.prompt.messages, each.answer, [each.principle.preference]))


def _request(each: Rated, seed: int) -> ChoiceRequest:
    fence = derive("score", seed, each.prompt.id, each.shown)
    return ChoiceRequest(score_messages(each.prompt.messages, each.shown, each.principle.preference, fence), SCORES)
