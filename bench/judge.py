"""Judging pairs: label probabilities from shared forward passes against generating a verdict and parsing it.

    python bench/judge.py [--repeats 5] [--model embedded]

256 pairs on a random Llama of 13 M parameters, or on the embedded model, four principles, both orders: 2,048 verdicts.
A request has 20 to 300 random tokens, an answer 20 to 60, a principle 30. The peer generates 16 tokens for each
verdict, one prompt at a time as the open recipes do, and also in batches of 32 and 64; it is timed on a part of the
pairs and scaled. Both are repeated behind 1,500 tokens of few-shot comparisons.
"""

from collections.abc import Sequence
from itertools import product

import torch
from measure import Result, compared, median_seconds, report
from models import Ids, generated, named, network_of, opened, options, texts
from transformers import LlamaForCausalLM

from cai.models.local.choices import choice_logps
from cai.models.local.network import Network

LABELS = ((40,), (41,))
VERDICT_TOKENS = 16


def main() -> None:
    asked = options(__doc__, rows=256).parse_args()
    model = opened(asked.model)
    network = network_of(model)
    results: list[Result] = []
    facts: dict[str, object] = {"pairs": asked.rows}
    for few_shot, goal, part in (((), 4.0, 16), (texts(model, 1, 1500, 1500, seed=11)[0], 15.0, 2)):
        verdicts = judgements(model, few_shot, asked.rows)
        sample = verdicts[:: max(1, len(verdicts) // (8 * part))]
        seconds = median_seconds(
            {
                "ours": lambda v=verdicts: ours(network, v),  # type: ignore[misc]
                **{
                    f"generate at {w}": lambda v=sample, w=w: generated(model, v, w, VERDICT_TOKENS)  # type: ignore[misc]
                    for w in (1, 32, 64)
                },
            },
            asked.repeats,
        )
        rate = len(verdicts) / seconds["ours"]
        after = f"behind {len(few_shot)} tokens: " if few_shot else ""
        for width in (1, 32, 64):
            peer = len(sample) / seconds[f"generate at {width}"]
            # The recipes that are compared with ask for one verdict at a time; batches need only be slower than ours.
            name = f"{after}verdicts/s against generate at {width}"
            results.append(compared(name, rate, peer, goal if width == 1 else 1.0))
        facts[f"seconds_{len(few_shot)}"] = seconds
        facts[f"sample_{len(few_shot)}"] = len(sample)
    report(named("judge", asked.model), results, facts)


def judgements(model: LlamaForCausalLM, few_shot: Ids, pairs: int) -> list[Ids]:
    """For each pair every principle in both orders: request, principle, answers, question."""
    requests, answers = texts(model, pairs, 20, 300, seed=8), texts(model, 2 * pairs, 20, 60, seed=9)
    principles, question = texts(model, 4, 30, 30, seed=10), (50, 51, 52, 53)
    found = []
    for number, request in enumerate(requests):
        one, other = answers[2 * number], answers[2 * number + 1]
        for principle, (first, second) in product(principles, ((one, other), (other, one))):
            found.append((*few_shot, *request, *principle, *first, 60, *second, *question))
    return found


def ours(network: Network, verdicts: Sequence[Ids]) -> list[list[float]]:
    with torch.inference_mode():
        return choice_logps(network, [(verdict, LABELS) for verdict in verdicts])


if __name__ == "__main__":
    main()
