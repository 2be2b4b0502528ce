"""prefer: pairs of answers, revised, sampled anew or brought along, judged in both orders by any model.

Where pairs come from lives in `feedback.pairs`, the judgement in `feedback.judge`, what is kept in `selecting`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cai.feedback.judge import judge
from cai.feedback.outcome import Outcome
from cai.feedback.pairs import CandidatePair, from_preferences, from_revisions, from_samples
from cai.feedback.selecting import best_against_worst, confirmed
from cai.models.protocol import Sampling
from cai.pipeline.chunks import Chunk, Made, chunked, work_in_chunks
from cai.pipeline.configs import PreferConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.judging import judge_settings, meetings, temperature_of
from cai.pipeline.labelled import imported
from cai.pipeline.reading import read_records
from cai.records import Preference, Prompt, Revision

_PLURALS = {"preferred": "preferred", "tie": "ties", "contradiction": "contradictions"}


def prefer_stage(config: PreferConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    temperature = temperature_of(inputs.card) if inputs.card else None
    settings = judge_settings(config, temperature or 1.0)

    def judged(pairs: Outcome[CandidatePair]) -> Outcome[Preference]:
        judge_model = desk.player(inputs.remotes.get("judge"), inputs.judge)
        return judge(pairs.records, inputs.constitution, judge_model, settings, inputs.seed)

    def of_revisions(revisions: Sequence[Revision]) -> Made:
        pairs = from_revisions(revisions)
        outcome = judged(pairs)
        kept = confirmed(pairs.records, outcome) if config.unconfirmed == "reject" else outcome
        revision_of = {pair.id: pair.origin.removeprefix("revisions:") for pair in pairs.records}
        rejects = [replace(reject, id=revision_of[reject.id]) for reject in kept.rejects]
        return _made(pairs, replace(kept, rejects=rejects))

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
        return _made(pairs, Outcome(outcome.records, outcome.rejects, outcome.notes + _against(labelled, outcome)))

    if config.pairs == "revisions":
        chunks = chunked("prefer", read_records(Revision, inputs.revisions), config.chunk, of_revisions)
    elif config.pairs == "samples":
        chunks = chunked("prefer", inputs.prompts, config.chunk, of_prompts)
    else:
        assert inputs.file is not None, inputs.name
        labelled, unusable = imported(inputs.file)
        chunks = [Chunk(len(unusable), lambda: Made(len(unusable), [], unusable))] if unusable else []
        chunks += chunked("prefer", labelled, config.chunk, of_labels)
    if inputs.card:
        yield Event("notice", inputs.name, {"text": _softened(temperature)})
    return (yield from work_in_chunks(inputs.name, chunks, folder, desk, recalls=True))


def _softened(temperature: float | None) -> str:
    if temperature is None:
        return "the judge's card has too few pairs to tell a temperature, so labels stay as they are"
    return f"labels are tempered by {temperature:.2f}, as the judge's card found"


def _made(pairs: Outcome[CandidatePair], outcome: Outcome[Preference]) -> Made:
    """Every pair is counted, and every input that gave none."""
    count = len(pairs.records) + len(pairs.rejects)
    rejects = [*pairs.rejects, *outcome.rejects]
    return Made(count, outcome.records, rejects, _kinds(outcome) + pairs.notes + outcome.notes)


def _against(labelled: Sequence[Preference], outcome: Outcome[Preference]) -> Counter[str]:
    """How often the judge names the answer that was labelled better, and how often the other; ties name neither."""
    labels = {row.id for row in labelled if row.kind == "preferred"}
    others = {replace(row, chosen=row.rejected, rejected=row.chosen).id for row in labelled if row.id in labels}
    named = [preference.id for preference in outcome.records if preference.kind == "preferred"]
    return +Counter(
        {"as labelled": sum(n in labels for n in named), "against the label": sum(n in others for n in named)}
    )


def _kinds(outcome: Outcome[Preference]) -> Counter[str]:
    return Counter(_PLURALS[preference.kind] for preference in outcome.records)
