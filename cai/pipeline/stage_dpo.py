"""dpo: an adapter trained on judged pairs, from an earlier adapter or from the base.

Ties and contradictions are named rejects here: what the judge could not tell is not trained on.
"""

from pathlib import Path

from cai.pipeline.configs import DpoStageConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.probe import probe_of
from cai.pipeline.reading import read_records
from cai.pipeline.training import Encoded, PairUsed, told, written
from cai.records import Preference, Reject
from cai.seeds import derive


def dpo_stage(config: DpoStageConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    from cai.train.preference import train_dpo
    from cai.train.reference import PairRow

    preferences = [p for p in read_records(Preference, inputs.preferences) if _is_of(p, config.pairs)]
    rows: list[PairRow] = []
    rejects: list[Reject] = []
    seen: set[str] = set()
    for preference in preferences:
        reject = _unwanted(preference, config, seen)
        seen.add(preference.id)
        if reject is None:
            chosen = Encoded.of(desk.workbench(), preference.prompt, preference.chosen)
            rejected = Encoded.of(desk.workbench(), preference.prompt, preference.rejected)
            if chosen.row is not None and rejected.row is not None:
                rows.append(PairRow(preference.id, chosen.row, rejected.row, preference.p_chosen))
                continue
            broken = chosen if chosen.row is None else rejected
            reject = Reject(preference.id, "dpo", broken.reason, broken.detail)
        rejects.append(reject)
    used = [PairUsed(row.id, row.p_chosen) for row in rows]
    finished = written(inputs.name, folder, len(preferences), used, rejects, {"pairs": len(rows)})
    settings = config.model_copy(update={"seed": derive(inputs.seed, "dpo", config.seed)})
    probe = probe_of([preference.prompt for preference in preferences], inputs.seed) if config.probe_every else None
    trainee = desk.workbench().trainee(inputs.start, derive(inputs.seed, "dpo adapter", config.seed))
    try:
        yield from told(inputs.name, train_dpo(settings, rows, trainee, folder, desk.stop, probe))
    finally:
        desk.workbench().release(trainee)
    return finished


def _is_of(preference: Preference, pairs: str) -> bool:
    """A filter passes on pairs of both kinds in one file; those of the other kind are no inputs of this stage."""
    return pairs in ("all", "new") or preference.origin.partition(":")[0] == pairs


def _unwanted(preference: Preference, config: DpoStageConfig, seen: set[str]) -> Reject | None:
    if preference.kind != "preferred":
        return Reject(preference.id, "dpo", preference.kind, f"p of the chosen answer is {preference.p_chosen:.3f}")
    if preference.p_chosen < config.min_p:
        detail = f"p of the chosen answer is {preference.p_chosen:.3f}, min_p is {config.min_p:g}"
        return Reject(preference.id, "dpo", "below min_p", detail)
    if preference.id in seen:
        return Reject(preference.id, "dpo", "duplicate pair", "the same pair stands earlier")
    return None
