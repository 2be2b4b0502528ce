"""The stage kinds: what each is called, its version, and the function that does it.

    (config, inputs, folder, desk) -> events, and at the end the stage's ledger

A stage writes into its own folder only, and goes on with what it finds there. The manifest is the runner's. A version
goes up when the same inputs would give other records: then nothing made by the old one is taken for done.
"""

from pathlib import Path

from cai.pipeline.configs import (
    TRAINING,
    DpoStageConfig,
    EvaluateConfig,
    FilterConfig,
    JudgeStageConfig,
    PreferConfig,
    ReviseConfig,
    SftStageConfig,
    StageConfig,
)
from cai.pipeline.desk import Desk
from cai.pipeline.events import StageEvents
from cai.pipeline.inputs import Inputs
from cai.pipeline.stage_dpo import dpo_stage
from cai.pipeline.stage_evaluate import evaluate_stage
from cai.pipeline.stage_filter import filter_stage
from cai.pipeline.stage_judge import judge_stage
from cai.pipeline.stage_prefer import prefer_stage
from cai.pipeline.stage_revise import revise_stage
from cai.pipeline.stage_sft import sft_stage

VERSIONS = {"revise": 2, "judge": 2, "prefer": 3, "filter": 1, "sft": 2, "dpo": 2, "evaluate": 2}

JOURNALED = tuple(kind for kind in VERSIONS if kind not in (*TRAINING, "filter"))
"""Kinds that commit their records chunk by chunk; the others write them all at once, again if they must."""


def run_stage(config: StageConfig, inputs: Inputs, folder: Path, desk: Desk) -> StageEvents:
    match config:
        case ReviseConfig():
            return revise_stage(config, inputs, folder, desk)
        case JudgeStageConfig():
            return judge_stage(config, inputs, folder, desk)
        case PreferConfig():
            return prefer_stage(config, inputs, folder, desk)
        case FilterConfig():
            return filter_stage(config, inputs, folder, desk)
        case SftStageConfig():
            return sft_stage(config, inputs, folder, desk)
        case DpoStageConfig():
            return dpo_stage(config, inputs, folder, desk)
        case EvaluateConfig():
            return evaluate_stage(config, inputs, folder, desk)
