"""dpo, kto and reward: what is trained on judged pairs, from an earlier adapter or from the base.

Ties and contradictions are named rejects here: what the judge could not tell is not trained on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cai.pipeline.desk import Desk
from cai.pipeline.events import Finished, StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.probe import probe_of
from cai.pipeline.reading import read_records
from cai.pipeline.training import Encoded, PairUsed, told, written
from cai.pipeline.training_configs import DpoStageConfig, FromPairs, KtoStageConfig, RewardStageConfig
from cai.records import Preference, Prompt, Reject
from cai.seeds import derive

if TYPE_CHECKING:
    from cai.train.optimise import Step
    from cai.train.reference import PairRow


@dataclass(frozen=True, slots=True)
class Pairs:
    rows: "list[PairRow]"
    prompts: list[Prompt]
    finished: Finished


def dpo_stage(config: DpoStageConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    from cai.train.preference import train_dpo

    pairs = _read(config, "dpo", inputs, folder, desk)
    settings = config.model_copy(update={"seed": derive(inputs.seed, "dpo", config.seed)})
    probe = probe_of(pairs.prompts, inputs.seed) if config.probe_every else None
    trainee = desk.workbench().trainee(inputs.start, derive(inputs.seed, "dpo adapter", config.seed))
    try:
        yield from told(inputs.name, train_dpo(settings, pairs.rows, trainee, folder, desk.stop, probe))
    finally:
        desk.workbench().release(trainee)
    return pairs.finished


def kto_stage(config: KtoStageConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    from cai.train.kto import KtoRow, train_kto

    pairs = _read(config, "kto", inputs, folder, desk)
    rows = []
    for pair in pairs.rows:
        rows.append(KtoRow(f"{pair.id}/chosen", pair.chosen, pair.p_chosen))
        rows.append(KtoRow(f"{pair.id}/rejected", pair.rejected, 1 - pair.p_chosen))
    settings = config.model_copy(update={"seed": derive(inputs.seed, "kto", config.seed)})
    probe = probe_of(pairs.prompts, inputs.seed) if config.probe_every else None
    trainee = desk.workbench().trainee(inputs.start, derive(inputs.seed, "kto adapter", config.seed))
    try:
        yield from told(inputs.name, train_kto(settings, rows, trainee, folder, desk.stop, probe))
    finally:
        desk.workbench().release(trainee)
    return pairs.finished


def reward_stage(config: RewardStageConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    from cai.train.reward import train_reward

    pairs = _read(config, "reward", inputs, folder, desk)
    settings = config.model_copy(update={"seed": derive(inputs.seed, "reward", config.seed)})
    scorer = desk.workbench().scoring_trainee(inputs.start, derive(inputs.seed, "reward adapter", config.seed))
    try:
        steps: Iterator[Step] = train_reward(settings, pairs.rows, scorer, folder, desk.stop)
        yield from told(inputs.name, steps)
    finally:
        desk.workbench().release(scorer)
    return pairs.finished


def _read(config: FromPairs, kind: str, inputs: Inputs, folder: Path, desk: Desk) -> Pairs:
    """The pairs as tokens, and the ledger of those that are not trained on, as files."""
    from cai.train.reference import PairRow

    preferences = [p for p in read_records(Preference, inputs.preferences) if _is_of(p, config.pairs)]
    rows: list[PairRow] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    for preference in preferences:
        reject = _unwanted(preference, config, kind, seen)
        seen.add(preference.id)
        if reject is None:
            chosen = Encoded.of(desk.workbench(), preference.prompt, preference.chosen)
            rejected = Encoded.of(desk.workbench(), preference.prompt, preference.rejected)
            if chosen.row is not None and rejected.row is not None:
                rows.append(PairRow(preference.id, chosen.row, rejected.row, preference.p_chosen))
                continue
            broken = chosen if chosen.row is None else rejected
            reject = Reject(preference.id, kind, broken.reason, broken.detail)
        rejects.append(reject)
    used = [PairUsed(row.id, row.p_chosen) for row in rows]
    finished = written(inputs.name, folder, len(preferences), used, rejects, {"pairs": len(rows)})
    return Pairs(rows, [preference.prompt for preference in preferences], finished)


def _is_of(preference: Preference, pairs: str) -> bool:
    """A filter passes on pairs of both kinds in one file; those of the other kind are no inputs of this stage."""
    return pairs in ("all", "new") or preference.origin.partition(":")[0] == pairs


def _unwanted(preference: Preference, config: FromPairs, kind: str, seen: set[str]) -> Reject | None:
    if preference.kind != "preferred":
        return Reject(preference.id, kind, preference.kind, f"p of the chosen answer is {preference.p_chosen:.3f}")
    if preference.p_chosen < config.min_p:
        detail = f"p of the chosen answer is {preference.p_chosen:.3f}, min_p is {config.min_p:g}"
        return Reject(preference.id, kind, "below min_p", detail)
    if preference.id in seen:
        return Reject(preference.id, kind, "duplicate pair", "the same pair stands earlier")
    return None
