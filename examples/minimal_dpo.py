"""The smallest DPO: a policy learns to prefer one half of a vocabulary, with nothing but the loss from `cai`.

Chosen answers are drawn from tokens 0–24, rejected ones from 25–49. The policy starts as a copy of its reference, so
the loss starts at ln 2 = 0.6931. Run: python examples/minimal_dpo.py
Shapes: B pairs, T tokens of an answer.
"""

import copy

import torch
from torch import Tensor, nn

from cai.train.losses import LossSettings, PairLogps, negative_log_likelihood, preference_loss

VOCABULARY, WIDTH, ANSWER, PAIRS, UPDATES = 50, 32, 12, 64, 60


class NextToken(nn.Module):
    """A language model that reads with a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.read = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def answer_logps(self, prompts_B1: Tensor, answers_BT: Tensor) -> Tensor:
        """log π(answer | prompt), summed over the answer's tokens: one number for each pair."""
        tokens = torch.cat([prompts_B1, answers_BT], dim=1)
        states, _ = self.read(self.embed(tokens[:, :-1]))
        logps_BT = self.head(states).log_softmax(-1).gather(-1, answers_BT[..., None])[..., 0]
        return -negative_log_likelihood(logps_BT, torch.ones_like(answers_BT, dtype=torch.bool))


def main() -> None:
    generator = torch.Generator().manual_seed(17)
    torch.manual_seed(17)
    prompts_B1 = torch.randint(0, VOCABULARY, (PAIRS, 1), generator=generator)
    chosen_BT = torch.randint(0, 25, (PAIRS, ANSWER), generator=generator)
    rejected_BT = torch.randint(25, 50, (PAIRS, ANSWER), generator=generator)

    policy = NextToken()
    reference = copy.deepcopy(policy).requires_grad_(requires_grad=False)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3, weight_decay=0.0)
    certain_B = torch.ones(PAIRS)

    for update in range(UPDATES + 1):
        pairs = PairLogps(
            policy.answer_logps(prompts_B1, chosen_BT),
            policy.answer_logps(prompts_B1, rejected_BT),
            reference.answer_logps(prompts_B1, chosen_BT),
            reference.answer_logps(prompts_B1, rejected_BT),
        )
        loss = preference_loss("dpo", pairs, certain_B, LossSettings(beta=0.1)).mean()
        if update % 20 == 0:
            accuracy = (pairs.delta > 0).float().mean()
            print(
                f"update {update:2d}  loss {loss:.4f}  log-ratio of chosen {pairs.chosen_ratio.mean():+7.2f}  "
                f"of rejected {pairs.rejected_ratio.mean():+7.2f}  accuracy {accuracy:.2f}"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


if __name__ == "__main__":
    main()
