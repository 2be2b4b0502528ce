"""revise: each training prompt answered, criticised and revised by the base or by remote models, chunk by chunk.

How a revision is made lives in `feedback.revise`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from cai.feedback.revise import ReviseSettings, revise
from cai.feedback.yields import counted, forecast, told
from cai.models.protocol import Sampling
from cai.pipeline.chunks import Made, chunked, work_in_chunks
from cai.pipeline.configs import ReviseConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.prompts import EMBEDDED
from cai.records import Prompt


def revise_stage(config: ReviseConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    sampling = Sampling(config.temperature, config.top_p, config.max_new_tokens)
    settings = ReviseSettings(config.rounds, sampling, sampling, sampling, config.style)

    def work(prompts: Sequence[Prompt]) -> Made:
        answerer, critic = (desk.player(inputs.remotes.get(role)) for role in ("answerer", "critic"))
        outcome = revise(prompts, inputs.constitution, answerer, critic, settings, inputs.seed)
        changed = sum(any(turn.changed for turn in revision.rounds) for revision in outcome.records)
        notes = {"changed": changed, "null edits": len(outcome.records) - changed, **outcome.notes}
        return Made(len(prompts), outcome.records, outcome.rejects, notes, counted(outcome.records, _benign(prompts)))

    chunks = chunked("revise", inputs.prompts, config.chunk, work)
    finished = yield from work_in_chunks(inputs.name, chunks, folder, desk, watch=forecast, recalls=True)
    for sentence in told(cast(dict[str, int], finished.facts.get("figures", {}))):
        yield Event("notice", inputs.name, {"text": sentence.removesuffix(".")})
    return finished


def _benign(prompts: Sequence[Prompt]) -> frozenset[str]:
    """Those of an embedded set that ask for nothing harmful and nothing that cannot be known; of others nobody says."""
    known = tuple(f"{name}/{label}" for name in EMBEDDED for label in ("benign", "borderline"))
    return frozenset(prompt.id for prompt in prompts if prompt.source in known)
