"""revise: each training prompt answered, criticised and revised by the base or by remote models, chunk by chunk.

How a revision is made lives in `feedback.revise`.
"""

from collections.abc import Sequence
from pathlib import Path

from cai.feedback.revise import ReviseSettings, revise
from cai.models.protocol import Sampling
from cai.pipeline.chunks import Made, chunked, work_in_chunks
from cai.pipeline.configs import ReviseConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import StageEvents
from cai.pipeline.inputs import Inputs
from cai.records import Prompt


def revise_stage(config: ReviseConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
    settings = ReviseSettings(config.rounds, sampling, sampling, sampling, config.style)

    def work(prompts: Sequence[Prompt]) -> Made:
        answerer, critic = (desk.player(inputs.remotes.get(role)) for role in ("answerer", "critic"))
        outcome = revise(prompts, inputs.constitution, answerer, critic, settings, inputs.seed)
        changed = sum(any(turn.changed for turn in revision.rounds) for revision in outcome.records)
        notes = {"changed": changed, "null edits": len(outcome.records) - changed, **outcome.notes}
        return Made(len(prompts), outcome.records, outcome.rejects, notes)

    chunks = chunked("revise", inputs.prompts, config.chunk, work)
    return (yield from work_in_chunks(inputs.name, chunks, folder, desk))
