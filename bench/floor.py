"""The arithmetic of a training that shares what can be shared, for what a bench calls its floor.

It counts of a batch: 2 FLOPs for each weight of a linear layer and each position, once forward and once backward to
the inputs (frozen weights need no more), 2 + 4 for each LoRA weight, 2 for each of the reference's, the same of the
head at completion tokens alone, with every shared prompt once and no position after which nothing is predicted; and
each query's products with the keys that it sees. It runs at the rate of a large fp32 `torch.mm`, measured in turn with
the rest. The facts of a result also tell the floor of the linear layers alone. Every layer counts in full: that ours
computes the last one at asked positions alone is to its credit.
"""

from dataclasses import dataclass

from memory import SIZES

from cai.models.local.spec import LoraSpec

LORA = LoraSpec(rank=16)


@dataclass(frozen=True, slots=True)
class Work:
    """What one batch asks for, at the least: positions and completion tokens, with gradients and without."""

    tokens: int
    """As they are counted for both sides: every answer with its whole prompt."""
    trained: int
    scored: int
    read: int = 0
    told: int = 0
    cells: int = 0
    """Queries × the keys that each of them sees: three times where there are gradients, once where there are none."""

    @property
    def flops(self) -> float:
        width, inner, layers = dimensions()
        shapes = [(width, width)] * 4 + [(width, inner)] * 3
        linear = layers * sum(a * b for a, b in shapes)
        lora = layers * sum(LORA.rank * (a + b) for a, b in shapes)
        head = 32_000 * width
        of_policy = self.trained * (4 * linear + 6 * lora) + self.scored * 4 * head
        return of_policy + self.read * 2 * linear + self.told * 2 * head

    @property
    def attention(self) -> float:
        width, _, layers = dimensions()
        return 4.0 * width * layers * self.cells


def dimensions() -> tuple[int, int, int]:
    """Width, inner width and layers of the model."""
    size = SIZES["13M"]
    return size["hidden_size"], size["intermediate_size"], size["num_hidden_layers"]


def cells_of(prompt: int, *answers: int) -> int:
    """Queries × keys of a prompt and of what goes on from it, each position seeing those before it."""
    return sum(n * before + n * (n + 1) // 2 for n, before in [(prompt, 0), *((answer, prompt) for answer in answers)])
