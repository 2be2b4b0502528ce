"""evaluate: the base, every supervised model and the final one answer the same held-out prompts, chunk by chunk.

What is asked and how it is read lives in `evaluate.suites`; how models compare, in `evaluate.compare`. The base is
also measured as the judge that it was, on pairs of which the truth is known, by the principle that each is about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cai.constitution.model import Constitution
from cai.evaluate.judging import judge_items
from cai.evaluate.suites import Item, run_suite
from cai.feedback.judge import JudgeSettings, judge, pool
from cai.feedback.pairs import CandidatePair
from cai.models.tiny.oracle import JudgePair, judge_pairs
from cai.pipeline.chunks import Made, chunked, work_in_chunks
from cai.pipeline.configs import BASE, EvaluateConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.labelled import principles_about
from cai.records import Preference, Prompt, Reject, Verdict

JUDGED_SPLIT = "test"


@dataclass(frozen=True, slots=True)
class Measured:
    """One item of one model."""

    model: str
    item: Item


@dataclass(frozen=True, slots=True)
class Known:
    """A pair of which the truth is known, and its id as a candidate pair."""

    id: str
    pair: JudgePair


def evaluate_stage(config: EvaluateConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    def answered(model: str, suite: str, prompts: Sequence[Prompt]) -> Made:
        result = run_suite(suite, desk.view(inputs.models[model]), prompts, inputs.seed)
        return Made(len(prompts), [Measured(model, item) for item in result.items])

    chunks = [
        chunk
        for suite in config.suites
        for model in inputs.models
        for chunk in chunked("evaluate", inputs.prompts, config.chunk, partial(answered, model, suite))
    ]
    if "tiny" in config.suites and config.judge_pairs:
        pairs = [Known(_candidate(pair).id, pair) for pair in judge_pairs(JUDGED_SPLIT, config.judge_pairs)]
        chunks += chunked("evaluate", pairs, config.chunk, partial(_judged, inputs.constitution, inputs.seed, desk))
    return (yield from work_in_chunks(inputs.name, chunks, folder, desk))


def _judged(constitution: Constitution, seed: int, desk: Desk, pairs: Sequence[Known]) -> Made:
    told: list[JudgePair] = []
    verdicts: list[Verdict] = []
    rejects: list[Reject] = []
    by_id = {known.id: known.pair for known in pairs}
    for family in dict.fromkeys(known.pair.family for known in pairs):
        own = [known for known in pairs if known.pair.family == family]
        principles = principles_about(constitution, family)
        if not principles:
            reason, detail = "no principle about it", f"no preference text of the constitution is about {family}"
            rejects += [Reject(known.id, "evaluate", reason, detail) for known in own]
            continue
        asked = replace(constitution, principles=principles)
        outcome = judge([_candidate(known.pair) for known in own], asked, desk.view(), JudgeSettings(), seed)
        rejects += [replace(reject, stage="evaluate") for reject in outcome.rejects]
        for preference in outcome.records:
            pair = by_id[CandidatePair(preference.prompt, preference.chosen, preference.rejected, "").id]
            told.append(pair)
            verdicts.append(_on_better(preference, pair, asked))
    items = judge_items("tiny", told, lambda _: verdicts)
    return Made(len(pairs), [Measured(BASE, item) for item in items], rejects)


def _candidate(pair: JudgePair) -> CandidatePair:
    return CandidatePair(pair.prompt, pair.better, pair.worse, f"judge:{pair.family}")


def _on_better(preference: Preference, pair: JudgePair, constitution: Constitution) -> Verdict:
    """What all principles together say of the better answer, in either order."""
    weights = [constitution.principle(verdict.principle_id).weight for verdict in preference.verdicts]
    first = pool([verdict.p_first for verdict in preference.verdicts], weights)
    second = pool([verdict.p_first_swapped for verdict in preference.verdicts], weights)
    if preference.chosen == pair.better:
        return Verdict("", first, second)
    return Verdict("", 1 - second, 1 - first)
