"""What planted failures and healthy trainings share: the embedded model, its rows, probes, and ways to lose a gradient.

Which failures are planted is `alarms_pairs`' and `alarms_policy`'s business, what the monitors make of them `alarms`'.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from cai.models.local.logprobs import TokenLogps, TokenRow
from cai.models.local.roles import Trainee
from cai.models.local.scorer import Scorer
from cai.models.local.spec import ModelSpec
from cai.models.local.view import LocalModel
from cai.models.local.workbench import open_workbench
from cai.models.tiny.oracle import JudgePair, judge_pairs
from cai.pipeline.probe import probe_of
from cai.pipeline.prompts import embedded_prompts
from cai.seeds import derive, shuffled, uniform
from cai.train.config import SftConfig
from cai.train.kto import KtoRow
from cai.train.optimise import Probe, Step
from cai.train.reference import PairRow
from cai.train.rollout import PromptRow
from cai.train.sft import SftRow, train_sft

PROBED_PAIRS, PROBED_PROMPTS = 24, 24
BEGUN_ON, BEGUN_RATE = 88, 1e-3
"""Answers that the start of policies is fine-tuned on: few, so that it now and then refuses what it should, and is
still greedy about serving."""

Labels = Callable[[int, int], bool]
"""Of a seed and a pair: whether chosen and rejected are exchanged."""


class Arena:
    """The embedded model, and what its trainings draw from."""

    def __init__(self, work: Path) -> None:
        self.workbench = open_workbench(ModelSpec("tiny", device="cpu"))
        self._work = work
        self._known = judge_pairs("align", 3000)
        self._prompts = embedded_prompts("tiny/align", 800)
        self._trusted = [row for pair in judge_pairs("tune", PROBED_PAIRS) for row in self._encoded(pair)]
        self._asked = embedded_prompts("tiny/align", PROBED_PROMPTS)

    def pairs(
        self, seed: int, count: int, exchanged: Labels, family: str = "", p_chosen: float | None = None
    ) -> list[PairRow]:
        """Judged as a fair judge would: surer of some pairs than of others."""
        rows = []
        for i in self._drawn(seed, count, family):
            better, worse = self._encoded(self._known[i])
            chosen, rejected = (worse, better) if exchanged(seed, i) else (better, worse)
            sure = 0.75 + 0.25 * uniform(derive("sure", seed, i), 0)
            rows.append(PairRow(str(i), chosen, rejected, sure if p_chosen is None else p_chosen))
        return rows

    def singles(self, seed: int, count: int, exchanged: Labels) -> list[KtoRow]:
        """One answer of each pair, every second one the worse."""
        rows = []
        for place, pair in enumerate(self.pairs(seed, count, exchanged)):
            chosen = place % 2 == 0
            tokens, desirable = (pair.chosen, pair.p_chosen) if chosen else (pair.rejected, 1 - pair.p_chosen)
            rows.append(KtoRow(pair.id, tokens, desirable))
        return rows

    def answers(self, seed: int, count: int) -> list[SftRow]:
        return [SftRow(str(i), self._encoded(self._known[i])[0]) for i in self._drawn(seed, count)]

    def prompts(self, seed: int, count: int) -> list[PromptRow]:
        drawn = shuffled(range(len(self._prompts)), derive(seed, "prompts"))[:count]
        asked = [self._prompts[i] for i in drawn]
        return [PromptRow(p.id, p.messages, self.workbench.encode_prompt(p.messages, p.tools), p.tools) for p in asked]

    @cached_property
    def start(self) -> Path:
        """What policies begin with: they can only learn from what they sometimes say."""
        folder = self._work / "start"
        if not (folder / "adapter").is_dir():
            trainee = self.workbench.trainee(None, 17)
            config = SftConfig(learning_rate=BEGUN_RATE, batch_size=16, epochs=1, seed=17)
            for _ in train_sft(config, self.answers(17, BEGUN_ON), trainee, folder, lambda: False):
                pass
            self.workbench.release(trainee)
        return folder / "adapter"

    def probe(self, trainee: Trainee, seed: int) -> Probe:
        """What a stage asks of the model in training, and how it ranks pairs whose labels are known to be right."""
        asked = probe_of(self._asked, seed)
        reference_P = trainee.reference_logps(self._trusted).sums()

        def look(model: LocalModel) -> Mapping[str, float]:
            with torch.no_grad():
                ratios_P = trainee.policy_logps(self._trusted).sums() - reference_P
            right = ratios_P[0::2] > ratios_P[1::2]
            return {**asked(model), "probe/accuracies": right.float().mean().item()}

        return look

    def ranks(self, scorer: Scorer) -> Mapping[str, float]:
        """The same pairs, ranked by a reward model in training."""
        with torch.no_grad():
            scores_P = scorer.scores(self._trusted)
        return {"probe/accuracies": (scores_P[0::2] > scores_P[1::2]).float().mean().item()}

    def _drawn(self, seed: int, count: int, family: str = "") -> list[int]:
        fitting = [i for i, pair in enumerate(self._known) if family in ("", pair.family)]
        return shuffled(fitting, derive(seed, "rows"))[:count]

    def _encoded(self, pair: JudgePair) -> tuple[TokenRow, TokenRow]:
        better, worse = (self.workbench.encode(pair.prompt.messages, text) for text in (pair.better, pair.worse))
        return better, worse


class Unreached:
    """A trainee or scorer whose gradients arrive nowhere: the optimizer holds copies of its weights."""

    def __init__(self, role: Trainee | Scorer) -> None:
        self._role = role

    def __getattr__(self, name: str) -> object:
        return getattr(self._role, name)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: torch.nn.Parameter(p.detach().clone()) for name, p in self._role.parameters().items()}


class Forgetful:
    """A trainee that every forward pass finds as it was at first, whatever the optimizer did."""

    def __init__(self, trainee: Trainee) -> None:
        self._trainee, self._first = trainee, trainee.state()

    def __getattr__(self, name: str) -> object:
        return getattr(self._trainee, name)

    def policy_logps(self, rows: Sequence[TokenRow], *dropout: int, checkpointing: bool = False) -> TokenLogps:
        with torch.no_grad():
            for name, parameter in self._trainee.parameters().items():
                parameter.copy_(self._first[name])
        return self._trainee.policy_logps(rows, *dropout, checkpointing=checkpointing)


Held = Callable[[Trainee], object]


@dataclass(frozen=True)
class Training:
    """One run: how its steps come about, given a seed. Another method is another function of the same kind."""

    name: str
    steps: Callable[[Arena, int, Path], Iterator[Step]]


@dataclass(frozen=True)
class Failure:
    training: Training
    right: tuple[str, ...]
    """The alarms of which any one names the failure."""
    by: int
    """The update by which one has to be raised."""


def as_judged(_: int, __: int) -> bool:
    return False


def turned_round(_: int, __: int) -> bool:
    return True


def coin(seed: int, pair: int) -> bool:
    return uniform(derive("coin", seed, pair), 0) < 0.5


def never() -> bool:
    return False
