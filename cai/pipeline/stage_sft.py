"""sft: a fresh adapter trained on revisions and on helpful answers.

Which answers those are lives in `sft_rows`, the training in `train.sft`.
"""

from pathlib import Path

from cai.pipeline.desk import Desk
from cai.pipeline.events import StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.probe import probe_of
from cai.pipeline.reading import read_records
from cai.pipeline.sft_rows import Example, select_examples
from cai.pipeline.training import Encoded, told, written
from cai.pipeline.training_configs import SftStageConfig
from cai.records import Reject, Revision
from cai.seeds import derive


def sft_stage(config: SftStageConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    from cai.train.sft import SftRow, train_sft

    selection = select_examples(read_records(Revision, inputs.revisions), config, inputs.seed, inputs.file)
    kept: list[Example] = []
    rows: list[SftRow] = []
    rejects: list[Reject] = list(selection.rejects)
    for example in selection.examples:
        tokens = Encoded.of(desk.workbench(), example.prompt, example.completion)
        if tokens.row is None:
            rejects.append(Reject(example.id, "sft", tokens.reason, tokens.detail))
        else:
            kept.append(example)
            rows.append(SftRow(example.id, tokens.row))
    inputs_count = len(selection.examples) + len(selection.rejects)
    helpful = sum(example.kind == "helpful" for example in kept)
    given = sum(example.kind == "given" for example in kept)
    notes = {"revisions": len(kept) - helpful - given, "helpful answers": helpful}
    notes |= {"answers of your own": given} if inputs.file else {}
    finished = written(inputs.name, folder, inputs_count, kept, rejects, notes)
    settings = config.model_copy(update={"seed": derive(inputs.seed, "sft", config.seed)})
    probe = probe_of([example.prompt for example in kept], inputs.seed) if config.probe_every else None
    trainee = desk.workbench().trainee(None, derive(inputs.seed, "sft adapter", config.seed))
    try:
        yield from told(inputs.name, train_sft(settings, rows, trainee, folder, desk.stop, probe))
    finally:
        desk.workbench().release(trainee)
    return finished
