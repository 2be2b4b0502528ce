"""prefer: pairs of answers, from revisions or sampled anew, judged in both orders by the base or a remote model.

Where pairs come from lives in `feedback.pairs`, the judgement in `feedback.judge`.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from cai.feedback.judge import JudgeSettings, judge
from cai.feedback.outcome import Outcome
from cai.feedback.pairs import CandidatePair, from_revisions, from_samples
from cai.models.protocol import Sampling
from cai.pipeline.chunks import Made, chunked, work_in_chunks
from cai.pipeline.configs import PreferConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.reading import read_records
from cai.records import Prompt, Revision

_PLURALS = {"preferred": "preferred", "tie": "ties", "contradiction": "contradictions"}


def prefer_stage(config: PreferConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    settings = JudgeSettings(config.principles, config.tie_below, config.contradiction_beyond, config.style)

    def judged(pairs: Outcome[CandidatePair]) -> Made:
        judge_model = desk.player(inputs.remotes.get("judge"))
        outcome = judge(pairs.records, inputs.constitution, judge_model, settings, inputs.seed)
        kinds = Counter(_PLURALS[preference.kind] for preference in outcome.records)
        notes = kinds + pairs.notes + outcome.notes
        # Every pair, and every input that gave none.
        count = len(pairs.records) + len(pairs.rejects)
        return Made(count, outcome.records, [*pairs.rejects, *outcome.rejects], notes)

    def of_revisions(revisions: Sequence[Revision]) -> Made:
        return judged(from_revisions(revisions))

    def of_prompts(prompts: Sequence[Prompt]) -> Made:
        sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
        sampler = desk.player(inputs.remotes.get("answerer"), inputs.start)
        return judged(from_samples(prompts, sampler, config.samples, sampling, inputs.seed))

    if config.pairs == "revisions":
        revisions = read_records(Revision, inputs.revisions)
        chunks = chunked("prefer", revisions, config.chunk, of_revisions)
    else:
        chunks = chunked("prefer", inputs.prompts, config.chunk, of_prompts)
    return (yield from work_in_chunks(inputs.name, chunks, folder, desk))
