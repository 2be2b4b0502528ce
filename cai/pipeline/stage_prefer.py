"""prefer: pairs of answers, revised, sampled anew or brought along, judged in both orders by any model.

Where pairs come from lives in `feedback.pairs`, the judgement in `feedback.judge`, what is kept in `selecting`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cai.feedback.judge import judge
from cai.feedback.outcome import Outcome
from cai.feedback.pairs import CandidatePair, from_preferences, from_revisions, from_samples
from cai.feedback.selecting import best_against_worst, confirmed
from cai.models.protocol import Sampling
from cai.pipeline.chunks import Chunk, Made, chunked, work_in_chunks
from cai.pipeline.configs import PreferConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.judging import judge_settings, meetings, temperature_of
from cai.pipeline.labelled import imported
from cai.pipeline.reading import read_records
from cai.records import Preference, Prompt, Revision

_PLURALS = {"preferred": "preferred", "tie": "ties", "contradiction": "contradictions"}


def prefer_stage(config: PreferConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    settings = judge_settings(config, temperature_of(inputs.card) if inputs.card else 1.0)

    def judged(pairs: Outcome[CandidatePair]) -> Outcome[Preference]:
        judge_model = desk.player(inputs.remotes.get("judge"))
        return judge(pairs.records, inputs.constitution, judge_model, settings, inputs.seed)

    def of_revisions(revisions: Sequence[Revision]) -> Made:
        pairs = from_revisions(revisions)
        outcome = judged(pairs)
        return _made(pairs, confirmed(pairs.records, outcome) if config.unconfirmed == "reject" else outcome)

    def of_prompts(prompts: Sequence[Prompt]) -> Made:
        sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
        sampler = desk.player(inputs.remotes.get("answerer"), inputs.start)
        pairs = from_samples(prompts, sampler, config.samples, sampling, inputs.seed, meetings(config))
        if config.keep == "all":
            return _made(pairs, judged(pairs))
        best = best_against_worst(prompts, pairs, judged(pairs))
        return Made(len(prompts), best.records, best.rejects, _kinds(best) + best.notes)

    def of_labels(labelled: Sequence[Preference]) -> Made:
        pairs = from_preferences(labelled)
        outcome = judged(pairs)
        told = {row.id for row in labelled}
        kept = sum(preference.id in told for preference in outcome.records)
        outcome.notes.update({"as labelled": kept, "against the label": len(outcome.records) - kept})
        return _made(pairs, outcome)

    if config.pairs == "revisions":
        chunks = chunked("prefer", read_records(Revision, inputs.revisions), config.chunk, of_revisions)
    elif config.pairs == "samples":
        chunks = chunked("prefer", inputs.prompts, config.chunk, of_prompts)
    else:
        assert inputs.file is not None, inputs.name
        labelled, unusable = imported(inputs.file)
        chunks = [Chunk(len(unusable), lambda: Made(len(unusable), [], unusable))] if unusable else []
        chunks += chunked("prefer", labelled, config.chunk, of_labels)
    return (yield from work_in_chunks(inputs.name, chunks, folder, desk, recalls=True))


def _made(pairs: Outcome[CandidatePair], outcome: Outcome[Preference]) -> Made:
    """Every pair is counted, and every input that gave none."""
    count = len(pairs.records) + len(pairs.rejects)
    rejects = [*pairs.rejects, *outcome.rejects]
    return Made(count, outcome.records, rejects, _kinds(outcome) + pairs.notes + outcome.notes)


def _kinds(outcome: Outcome[Preference]) -> Counter[str]:
    return Counter(_PLURALS[preference.kind] for preference in outcome.records)
