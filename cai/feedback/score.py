"""One answer on a scale from 1 to 10, by what the judge expects to say: Σ i·P(i) (direct RLAIF, arXiv 2309.00267)."""

from collections.abc import Sequence

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


def score(
    prompts: Sequence[Prompt], answers: Sequence[str], principle: Principle, model: Model, seed: int
) -> list[float]:
    """The expected score of each prompt's answer, asked in one call. An answer that says nothing gets the worst, and so
    does one that speaks to the judge."""
    scores = [WORST] * len(answers)
    shown = {
        row: (prompt, without_reasoning(answer))
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        if not is_trivial(without_reasoning(answer))
        and not guarded_for(prompt.messages, answer, [principle.preference])
    }
    requests = [
        ChoiceRequest(
            score_messages(prompt.messages, answer, principle.preference, derive("score", seed, prompt.id, answer)),
            SCORES,
        )
        for prompt, answer in shown.values()
    ]
    choices = all_told(model, model.choose(requests)) if requests else []
    for row, choice in zip(shown, choices, strict=True):
        probabilities = label_probabilities(choice, len(SCORES))
        if probabilities is None:
            raise CaiError(
                f"model {model.name!r}: it gave no probability for every score from 1 to 10, got {choice.logprobs}; "
                f"principle {principle.id!r} needs a model that can weigh given texts"
            )
        scores[row] = sum(float(label) * p for label, p in zip(SCORES, probabilities, strict=True))
    return scores
