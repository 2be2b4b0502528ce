"""judge: the judge measured on pairs of which the better answer is known; a gate stops the run where it falls short.

How it is measured lives in `feedback.judge_card`. A refused stage is never done: it is kept without a manifest, and the
same command refuses it again at once.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cai.errors import CaiError, GateRefused
from cai.evaluate.card_page import write_card
from cai.feedback.judge_card import Judged, Known, judge_card, measure, shortfalls
from cai.pipeline.chunks import Chunk, Made, chunked, work_in_chunks
from cai.pipeline.configs import JudgeStageConfig
from cai.pipeline.desk import Desk
from cai.pipeline.events import Event, StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.judging import judge_settings
from cai.pipeline.labelled import labelled_set
from cai.pipeline.reading import read_records


def judge_stage(config: JudgeStageConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    settings = judge_settings(config)
    found = labelled_set(config.data, inputs.file, config.limit, inputs.constitution)

    def work(pairs: Sequence[Known]) -> Made:
        judge_model = desk.player(inputs.remotes.get("judge"), inputs.judge)
        outcome = measure(pairs, inputs.constitution, judge_model, settings, inputs.seed)
        return Made(len(pairs), outcome.records, outcome.rejects, outcome.notes)

    unread = Chunk(len(found.rejects), lambda: Made(len(found.rejects), [], found.rejects))
    chunks = [*([unread] if found.rejects else []), *chunked("judge", found.pairs, config.chunk, work)]
    finished = yield from work_in_chunks(inputs.name, chunks, folder, desk, recalls=True)
    judged = read_records(Judged, [folder])
    if not judged:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in finished.rejects.items())
        raise CaiError(f"{inputs.name}: none of {finished.inputs} labelled pairs came to a judgement: {reasons}")
    name = config.judge
    card = judge_card(judged, finished.rejects, (name, *_model_of(inputs, desk)))
    page = write_card(folder, card, name, inputs.file.name if inputs.file else config.data)
    lacking = shortfalls(card, config.require.model_dump(exclude_none=True))
    if lacking:
        remedy = f"the card is {page}; take another judge, mend the constitution, or ask for less under require"
        raise GateRefused(f"{inputs.name}: judge '{name}' falls short: {'; '.join(lacking)}; {remedy}")
    share = card.accuracy
    text = (
        f"judge '{name}' is right in {share.share:.1%} of {share.n} pairs, the longer answer in {card.longer_wins:.1%}"
    )
    told = f"{text}; it agrees with itself in {card.consistency.share:.1%}"
    yield Event("notice", inputs.name, {"text": told})
    return replace(finished, facts={**finished.facts, "told": [told]})


def _model_of(inputs: Inputs, desk: Desk) -> tuple[str, ...]:
    """What the judge's maker calls it: data that names who wrote an answer names it like that."""
    remote = inputs.remotes.get("judge")
    if remote is not None:
        return (desk.remote_specs[remote].model,)
    assert desk.spec is not None, inputs.name
    return () if inputs.judge else (desk.spec.base,)
