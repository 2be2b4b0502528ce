"""What the stages that judge have in common: the judge's settings, from a pipeline's or from a card."""

import json
from pathlib import Path

from cai.errors import DamagedFile
from cai.feedback.asking import Reasoning
from cai.feedback.judge import JudgeSettings
from cai.models.protocol import Sampling
from cai.pipeline.configs import JudgingConfig, PreferConfig
from cai.store.judge_told import CARD


def judge_settings(config: JudgingConfig, temperature: float = 1.0) -> JudgeSettings:
    reasoning = Reasoning(config.reasoning, Sampling(1.0, max_new_tokens=config.reasoning_tokens))
    return JudgeSettings(
        principles=config.principles,
        tie_below=config.tie_below,
        contradiction_beyond=config.contradiction_beyond,
        certain_at=config.certain_at,
        tokens_per_pair=config.tokens_per_pair,
        style=config.style,
        reasoning=reasoning if config.reasoning else None,
        temperature=temperature,
    )


def temperature_of(folder: Path) -> float | None:
    """The temperature that the judge's card in this folder recommends; None where it had too few pairs to tell."""
    path = folder / CARD
    try:
        calibration = json.loads(path.read_text("utf-8"))["calibration"]
        return float(calibration["temperature"]) if calibration else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(str(path), f"is no judge card ({error})", None, "remove its folder and run again") from None


def meetings(config: PreferConfig) -> int:
    """How many pairs one prompt's samples make at most."""
    every = config.samples * (config.samples - 1) // 2
    return min(every, 2 * config.samples if config.keep == "best" else 6)
