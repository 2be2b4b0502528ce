"""Whether planted failures raise the right alarm in time, and whether healthy trainings keep quiet.

    python bench/alarms.py [--seeds 1001 1002 1003 1004 1005] [--healthy 100] [--only NAME ...] [--work DIR]

Short trainings of the embedded model on pairs of which the better answer is known. Each failure is planted on five
seeds; healthy trainings differ in method, loss, rate, schedule, batch and noise. Thresholds were chosen on seeds below
1000. Every curve stays in the work folder, so that an interrupted bench goes on where it was, and a change of the
monitors needs no training. Results go to `bench/results/alarms.json`, the table to `docs/monitors.md`.
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from measure import RESULTS, machine

from cai.errors import CaiError
from cai.models.local.logprobs import TokenLogps, TokenRow
from cai.models.local.roles import Trainee
from cai.models.local.spec import ModelSpec
from cai.models.local.view import LocalModel
from cai.models.local.workbench import open_workbench
from cai.models.tiny.oracle import JudgePair, judge_pairs
from cai.pipeline.probe import probe_of
from cai.pipeline.prompts import embedded_prompts
from cai.seeds import derive, shuffled, uniform
from cai.train.config import DpoConfig, SftConfig, TrainConfig
from cai.train.monitors import Alarm, Watch
from cai.train.optimise import Probe, Step
from cai.train.preference import train_dpo
from cai.train.reference import PairRow
from cai.train.sft import SftRow, train_sft

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "monitors.md"
START, END = "<!-- figures: bench/alarms.py -->", "<!-- end of figures -->"
UPDATES, PAIRS, ROWS = 60, 6, 8
"""Of a planted failure. A healthy training may be longer."""
DPO_RATE, SFT_RATE = 7e-4, 1e-3
"""What suits the embedded model from its base: `bench/parts.py` and the quickstart."""
PROBED_PAIRS, PROBED_PROMPTS = 24, 24
HEALTHY_BAR = 0.01

Curve = list[dict[str, float]]
Labels = Callable[[int, int], bool]
"""Of a seed and a pair: whether chosen and rejected are exchanged."""


class Arena:
    """The embedded model, and what its trainings draw from."""

    def __init__(self) -> None:
        self.workbench = open_workbench(ModelSpec("tiny", device="cpu"))
        self._known = judge_pairs("align", 3000)
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

    def answers(self, seed: int, count: int) -> list[SftRow]:
        return [SftRow(str(i), self._encoded(self._known[i])[0]) for i in self._drawn(seed, count)]

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

    def _drawn(self, seed: int, count: int, family: str = "") -> list[int]:
        fitting = [i for i, pair in enumerate(self._known) if family in ("", pair.family)]
        return shuffled(fitting, derive(seed, "rows"))[:count]

    def _encoded(self, pair: JudgePair) -> tuple[TokenRow, TokenRow]:
        better, worse = (self.workbench.encode(pair.prompt.messages, text) for text in (pair.better, pair.worse))
        return better, worse


class Unreached:
    """A trainee whose gradients arrive nowhere: the optimizer holds copies of its weights."""

    def __init__(self, trainee: Trainee) -> None:
        self._trainee = trainee

    def __getattr__(self, name: str) -> object:
        return getattr(self._trainee, name)

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        return {name: torch.nn.Parameter(p.detach().clone()) for name, p in self._trainee.parameters().items()}


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


def trained(
    train: Callable[..., Iterator[Step]],
    arena: Arena,
    folder: Path,
    config: TrainConfig,
    rows: Sequence[object],
    held: Held | None = None,
) -> Iterator[Step]:
    trainee = arena.workbench.trainee(None, config.seed)
    given = held(trainee) if held else trainee
    try:
        yield from train(config, rows, given, folder, lambda: False, arena.probe(trainee, config.seed))
    finally:
        arena.workbench.release(trainee)


def planted_dpo(
    name: str,
    labels: Labels = as_judged,
    *,
    rate: float = 1.0,
    family: str = "",
    p_chosen: float | None = None,
    held: Held | None = None,
) -> Training:
    def steps(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
        config = DpoConfig(learning_rate=DPO_RATE * rate, batch_size=PAIRS, seed=seed, probe_every=10)
        pairs = arena.pairs(seed, PAIRS * UPDATES, labels, family, p_chosen)
        return trained(train_dpo, arena, folder, config, pairs, held)

    return Training(name, steps)


def planted_sft(name: str, *, rate: float = 1.0, held: Held | None = None) -> Training:
    def steps(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
        config = SftConfig(learning_rate=SFT_RATE * rate, batch_size=ROWS, epochs=1, seed=seed)
        return trained(train_sft, arena, folder, config, arena.answers(seed, ROWS * UPDATES), held)

    return Training(name, steps)


def healthy(arena: Arena, seed: int, folder: Path) -> Iterator[Step]:
    """A training that nothing is wrong with, drawn from what people set."""

    def draw(what: str, low: float, high: float) -> float:
        return low * (high / low) ** uniform(derive("healthy", seed, what), 0)

    def one_of(what: str, *choices: str) -> str:
        return choices[int(uniform(derive("healthy", seed, what), 0) * len(choices))]

    shared: dict[str, object] = {
        "seed": seed,
        "schedule": one_of("schedule", "cosine", "linear", "constant"),
        "warmup": draw("warmup", 0.03, 0.2),
        "batch_size": round(draw("batch", 4, 8)),
        "epochs": int(one_of("epochs", "1", "1", "2")),
        "probe_every": 20,
    }
    if one_of("method", "dpo", "sft") == "sft":
        config = SftConfig.model_validate({**shared, "learning_rate": SFT_RATE * draw("rate", 0.3, 1.5)})
        rows = round(draw("updates", 60, 140)) * config.batch_size // config.epochs
        return trained(train_sft, arena, folder, config, arena.answers(seed, rows))
    loss = one_of("loss", "dpo", "dpo", "dpo", "cdpo", "robust", "hinge", "ipo")
    smoothing = 0.1 if loss in ("cdpo", "robust") else 0.0
    changed = {
        "loss": loss,
        "label_smoothing": smoothing,
        "labels": one_of("labels", "soft", "hard"),
        "beta": draw("beta", 0.05, 0.3),
        "learning_rate": DPO_RATE * draw("rate", 0.3, 1.5),
    }
    noise = uniform(derive("healthy", seed, "noise"), 0) * 0.15
    rows = round(draw("updates", 60, 80)) * int(str(shared["batch_size"])) // int(str(shared["epochs"]))

    def mistaken(seed: int, pair: int) -> bool:
        return uniform(derive("mistaken", seed, pair), 0) < noise

    pairs = arena.pairs(seed, rows, mistaken)
    return trained(train_dpo, arena, folder, DpoConfig.model_validate({**shared, **changed}), pairs)


RUINED = ("loss-explosion", "gradient-explosion", "chosen-falls", "not-finite")
REFUSING = ("over-refusal", "held-out-falls")
FAILURES = (
    Failure(planted_dpo("dpo: labels thrown anew", coin), ("labels-teach-nothing",), 60),
    Failure(planted_dpo("dpo: every label a tie", p_chosen=0.5), ("nothing-moves",), 20),
    Failure(planted_dpo("dpo: labels turned round", turned_round), ("labels-turned-round",), 60),
    Failure(planted_dpo("dpo: learning rate × 30", rate=30), RUINED, 30),
    Failure(planted_dpo("dpo: learning rate × 100", rate=100), RUINED, 20),
    Failure(planted_dpo("dpo: no gradient arrives", held=Unreached), ("nothing-moves",), 20),
    Failure(planted_dpo("dpo: steps are lost", held=Forgetful), ("nothing-moves",), 20),
    Failure(planted_dpo("dpo: a judge that over-refuses", turned_round, family="refusal"), REFUSING, 60),
    Failure(planted_dpo("dpo: a judge that loves length", turned_round, family="brevity"), ("longer",), 60),
    Failure(planted_sft("sft: learning rate × 30", rate=30), RUINED, 30),
    Failure(planted_sft("sft: learning rate × 100", rate=100), RUINED, 20),
    Failure(planted_sft("sft: no gradient arrives", held=Unreached), ("nothing-moves",), 20),
)
HEALTHY = Training("healthy", healthy)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(1001, 1006)))
    parser.add_argument(
        "--healthy", type=int, default=100, help="how many healthy trainings, on seeds from the last on"
    )
    parser.add_argument(
        "--only", nargs="+", default=[], help="failures, or `healthy`, by name; nothing is written then"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "alarms")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    arena = Arena()
    failures = [f for f in FAILURES if not asked.only or f.training.name in asked.only]
    found = [judged(arena, failure, asked.seeds, asked.work) for failure in failures]
    quiet_seeds = range(max(asked.seeds) + 1, max(asked.seeds) + 1 + asked.healthy)
    healthy = healthy_runs(arena, quiet_seeds, asked.work) if not asked.only or HEALTHY.name in asked.only else None
    if not asked.only:
        assert healthy is not None
        write_results(found, healthy)


@dataclass(frozen=True)
class Detected:
    """How one failure was noticed over its seeds."""

    name: str
    right: tuple[str, ...]
    by: int
    runs: int
    in_time: int
    latest: int | None
    """The latest update at which the first right alarm was raised; none if a run raised no right one."""
    others: dict[str, int]
    """Alarms of other kinds, and in how many runs."""
    met: bool


@dataclass(frozen=True)
class Quiet:
    """What healthy trainings raised."""

    runs: int
    updates: int
    raised: int
    kinds: dict[str, int]
    met: bool


def judged(arena: Arena, failure: Failure, seeds: Sequence[int], work: Path) -> Detected:
    firsts: list[int | None] = []
    others: Counter[str] = Counter()
    for seed in seeds:
        alarms = raised(curve(arena, failure.training, seed, work))
        firsts.append(min((alarm.step for alarm in alarms if alarm.kind in failure.right), default=None))
        others.update({alarm.kind for alarm in alarms} - {*failure.right})
        show(f"{failure.training.name} {seed}", alarms)
    in_time = sum(first is not None and first <= failure.by for first in firsts)
    known = [first for first in firsts if first is not None]
    latest = max(known) if len(known) == len(firsts) else None
    return Detected(
        failure.training.name,
        failure.right,
        failure.by,
        len(seeds),
        in_time,
        latest,
        dict(others),
        in_time == len(seeds),
    )


def healthy_runs(arena: Arena, seeds: Sequence[int], work: Path) -> Quiet:
    kinds: Counter[str] = Counter()
    updates = loud = 0
    for seed in seeds:
        found = curve(arena, HEALTHY, seed, work)
        alarms = raised(found)
        updates += len(found)
        loud += bool(alarms)
        kinds.update({alarm.kind for alarm in alarms})
        show(f"healthy {seed}", alarms)
    return Quiet(len(seeds), updates, loud, dict(kinds), loud <= HEALTHY_BAR * len(seeds))


def curve(arena: Arena, training: Training, seed: int, work: Path) -> Curve:
    """The metrics of each update, kept as `metrics.jsonl` is. A training that its own trainer stops ends there."""
    kept = work / f"{training.name.replace(':', '').replace(' ', '-')}-{seed}.jsonl"
    if not kept.exists():
        with tempfile.TemporaryDirectory() as folder:
            lines = []
            try:
                lines += [
                    json.dumps({"step": s.number, **s.metrics}) for s in training.steps(arena, seed, Path(folder))
                ]
            except CaiError as error:
                print(f"    {training.name} {seed}: {error}", flush=True)
                lines = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
        kept.write_text("".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in kept.read_text("utf-8").splitlines()]


def raised(found: Curve) -> list[Alarm]:
    watch = Watch()
    return [alarm for metrics in found for alarm in watch.see(metrics)]


def show(name: str, alarms: Sequence[Alarm]) -> None:
    print(f"{name:40} {', '.join(f'{alarm.kind} at {alarm.step}' for alarm in alarms)}", flush=True)


def write_results(found: Sequence[Detected], healthy: Quiet) -> None:
    told = {"bench": "alarms", "failures": [asdict(each) for each in found], "healthy": asdict(healthy)}
    (RESULTS / "alarms.json").write_text(json.dumps({**told, "machine": machine()}, indent=1) + "\n")
    before, _, rest = GUIDE.read_text("utf-8").partition(START)
    _, _, after = rest.partition(END)
    GUIDE.write_text(f"{before}{START}\n{table(found, healthy)}\n{END}{after}", "utf-8")
    print(json.dumps(told))


def table(found: Sequence[Detected], healthy: Quiet) -> str:
    lines = [
        "| planted | seeds | right alarm in time | asked by update | the latest came at |",
        "|---|---|---|---|---|",
    ]
    lines += [f"| {f.name} | {f.runs} | {f.in_time} | {f.by} | {f.latest or '–'} |" for f in found]
    return "\n".join([*lines, "", f"Of {healthy.runs} healthy trainings {healthy.raised} raised an alarm."])


if __name__ == "__main__":
    main()
