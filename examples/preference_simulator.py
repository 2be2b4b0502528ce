"""Preferences without people: simulated annotators with a hidden taste, and a reward model that learns it from labels.

Answers are put together from sentences. Each annotator sees two of them and prefers the one more to the common taste,
the more surely the wider they lie apart (Bradley and Terry, 1952), and now and then clicks the wrong one. The reward
model sees six features of the text and 100 such labels. Run: python examples/preference_simulator.py
Shapes: B pairs, F features.
"""

import random
import re

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

PAIRS, HELD_OUT, EPOCHS = 100, 400, 50
CLICKS_WRONG = {"Ada": 0.02, "Ben": 0.1, "Cleo": 0.25}
"""How often each annotator clicks the other answer than the one that was meant."""

SENTENCES = (
    "First fill the kettle with 2 cups of water.",
    "Please be careful, the steam is hot.",
    "Perhaps it takes a while, maybe longer.",
    "You will love it!!!",
    "I am sorry, I cannot say more.",
    "Tea needs 4 minutes.",
    "Thank you for asking.",
    "It could be that green tea is different, perhaps.",
    "Then pour it over the leaves.",
    "Wow, what a question!",
)
FEATURES = {
    "length": lambda text: len(text.split()) / 20,
    "numbers": lambda text: len(re.findall(r"\d+", text)) / 2,
    "courtesy": lambda text: len(re.findall(r"please|thank", text, re.IGNORECASE)) / 2,
    "hedging": lambda text: len(re.findall(r"perhaps|maybe|could be", text, re.IGNORECASE)) / 2,
    "shouting": lambda text: text.count("!") / 2,
    "refusal": lambda text: float("cannot" in text),
}
TASTE = torch.tensor([-1.0, 3.0, 2.0, -2.0, -2.0, -3.0])
"""What the annotators like and dislike, feature by feature. The reward model is never shown it."""


def answer(draws: random.Random) -> str:
    return " ".join(draws.sample(SENTENCES, draws.randint(1, 4)))


def features(texts: list[str]) -> Tensor:
    return torch.tensor([[feature(text) for feature in FEATURES.values()] for text in texts])


def label(first: str, second: str, annotator: str, draws: random.Random) -> tuple[str, str]:
    """The answer that this annotator clicked, and the other one."""
    gap = features([first]) @ TASTE - features([second]) @ TASTE
    likes_first = draws.random() < gap.sigmoid().item()
    clicks_first = likes_first != (draws.random() < CLICKS_WRONG[annotator])
    return (first, second) if clicks_first else (second, first)


def simulate(pairs: int, draws: random.Random) -> tuple[Tensor, Tensor]:
    """The features of the chosen and of the rejected answers, both BF."""
    annotators = list(CLICKS_WRONG)
    labels = [label(answer(draws), answer(draws), annotators[i % len(annotators)], draws) for i in range(pairs)]
    return features([chosen for chosen, _ in labels]), features([rejected for _, rejected in labels])


def accuracy(margins_B: Tensor) -> float:
    """The share of pairs in the right order; answers that are scored alike count half."""
    return ((margins_B > 0).float() + (margins_B == 0).float() / 2).mean().item()


def main() -> None:
    draws = random.Random(17)
    torch.manual_seed(17)
    chosen_BF, rejected_BF = simulate(PAIRS, draws)
    new_chosen_BF, new_rejected_BF = simulate(HELD_OUT, draws)

    reward = nn.Linear(len(FEATURES), 1, bias=False)
    optimizer = torch.optim.AdamW(reward.parameters(), lr=0.1, weight_decay=0.01)
    for epoch in range(EPOCHS + 1):
        margins_B = (reward(chosen_BF) - reward(rejected_BF))[:, 0]
        loss = -logsigmoid(margins_B).mean()  # −log σ(r(chosen) − r(rejected))
        if epoch % 10 == 0:
            new_margins_B = (reward(new_chosen_BF) - reward(new_rejected_BF))[:, 0]
            print(
                f"epoch {epoch:2d}  loss {loss:.4f}  accuracy {accuracy(margins_B):.2f}  "
                f"held out {accuracy(new_margins_B):.2f}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    tastes_B = (new_chosen_BF - new_rejected_BF) @ TASTE
    learned_B = (reward(new_chosen_BF) - reward(new_rejected_BF))[:, 0]
    print(f"\nThe taste itself agrees with {accuracy(tastes_B):.2f} of the held-out labels: the rest is noise.")
    print(f"The reward model orders {accuracy(learned_B * tastes_B):.2f} of the held-out pairs as the taste does.")
    for name, wanted, learned in zip(FEATURES, TASTE, reward.weight[0], strict=True):
        print(f"{name:9} taste {wanted:+.1f}  learned {learned.item():+.2f}")


if __name__ == "__main__":
    main()
