"""Alarms about a training in plain words: what was seen, and what to do about it.

Pure functions of the metrics, with no torch, so that a training that was stopped and goes on, or a `metrics.jsonl` from
anywhere, tells the same. What an alarm leads to (a warning, a pause, a stop) is decided elsewhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cai.train import alarm_answers, alarm_losses, alarm_policy
from cai.train.alarm_curves import RECENT, Curves

QUIET = 20
"""Updates without a finding after which a kind counts as new: a value hovering about a threshold is one alarm."""


@dataclass(frozen=True, slots=True)
class Alarm:
    kind: str
    step: int
    """The update after which it was seen."""
    evidence: str
    """The values that were seen, and over which updates."""
    advice: str
    sound: int
    """The last update that is not under suspicion; 0 where the training was wrong from its first."""


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    ignore: tuple[str, ...] = ()
    """Kinds of alarms that are expected here, and not told."""


@dataclass(frozen=True, slots=True)
class Monitor:
    look: Callable[[Curves], str | None]
    """The evidence, or nothing."""
    advice: str
    always: bool = False
    """Whether what it tells of was so before the first update: then nothing that was learnt is worth keeping."""


MONITORS: dict[str, Monitor] = {
    "not-finite": Monitor(
        alarm_losses.not_finite,
        "Go back to the checkpoint before it and lower learning_rate; look for rows that are empty, or far too long.",
    ),
    "loss-explosion": Monitor(
        alarm_losses.loss_explodes,
        "The model is worse than before training. Start again with learning_rate ten times lower and a warm-up.",
    ),
    "gradient-explosion": Monitor(
        alarm_losses.gradient_explodes,
        "The training has become unstable. Lower learning_rate, tenfold to begin with, or lengthen the warm-up.",
    ),
    "chosen-falls": Monitor(
        alarm_losses.chosen_falls,
        "The model forgets the answers that it should prefer. Lower learning_rate or raise beta; if that does not "
        "help, take pairs whose answers differ more.",
    ),
    "labels-teach-nothing": Monitor(
        alarm_losses.labels_teach_nothing,
        "The labels look like coin tosses. Check that the label column is the right one and not shuffled, that pairs "
        "do not stand in both directions, and how often the judge is right (`cai judge card`). If the labels are "
        "sound, learning_rate is far too low for them.",
        always=True,
    ),
    "labels-turned-round": Monitor(
        alarm_answers.labels_turned_round,
        "What is trained on as chosen is what is known to be worse: chosen and rejected have been exchanged. Turn the "
        "label column round and start again.",
        always=True,
    ),
    "nothing-moves": Monitor(
        alarm_losses.nothing_moves,
        "The adapter is not being trained: it is frozen or switched off, learning_rate is zero, or the optimizer holds "
        "other weights. Without any gradient it may also be the labels: a p_chosen of one half in every row teaches "
        "nothing.",
    ),
    "constant-reward": Monitor(
        alarm_policy.constant_reward,
        "Every answer to a prompt gets the same reward, so no answer is better than another. Check the reward function "
        "on a few answers by hand; if it is right, take harder or easier prompts, or more answers for each.",
    ),
    "kl-runaway": Monitor(
        alarm_policy.kl_runs_away,
        "The policy has left its reference behind. Raise the KL coefficient or lower learning_rate, and go back to a "
        "checkpoint from before.",
    ),
    "first-ratio": Monitor(
        alarm_policy.first_ratio_off,
        "Before its first step the policy does not agree with itself. The old log-probabilities come from another "
        "forward pass than the new ones: another temperature, precision, padding, or dropout.",
    ),
    "clipping": Monitor(
        alarm_policy.steps_too_large,
        "The policy moves too far in one update. Lower learning_rate, or take fewer passes over a larger batch.",
    ),
    "longer": Monitor(
        alarm_answers.longer,
        "Look at whether the longer answers are better. If not, the reward likes length: subtract what length alone "
        "explains, or judge with a principle that asks for brevity.",
    ),
    "shorter": Monitor(
        alarm_answers.shorter,
        "Look at the answers. If they are empty or cut off, the reward likes brevity, or the end of a turn is missing "
        "from the loss.",
    ),
    "held-out-falls": Monitor(
        alarm_answers.held_out_falls,
        "What is optimised and what is wanted have parted. Stop, and take the checkpoint with the best held-out score; "
        "then hold the policy closer to its reference, or mend the reward.",
    ),
    "collapse": Monitor(
        alarm_answers.collapse,
        "The answers lose their variety. Look at a few: a phrase that they share is what the reward likes. Raise the "
        "KL coefficient, lower learning_rate, and go back to a checkpoint from before.",
    ),
    "over-refusal": Monitor(
        alarm_answers.refusals_spread,
        "Harmless prompts are turned down. Add harmless prompts with helpful chosen answers, or a principle against "
        "needless refusal, and measure the judge on both.",
    ),
}
"""By the name that an alarm has, and that `MonitorSettings.ignore` takes."""


def watch(window: Sequence[Mapping[str, float]], settings: MonitorSettings = MonitorSettings()) -> list[Alarm]:
    """The alarms that hold after the last of these updates; the first is the training's first, or says its `step`."""
    curves = Curves()
    for metrics in window:
        curves.add(metrics)
    return _alarms(curves, settings)


class Watch:
    """A training as it goes on: tells every kind of alarm once, and again only after it had been away.

    One that goes on after an interruption is shown the updates before it first, and then tells what it would have told.
    """

    def __init__(self, settings: MonitorSettings = MonitorSettings()) -> None:
        self._settings = settings
        self._curves = Curves()
        self._seen: dict[str, int] = {}

    def see(self, metrics: Mapping[str, float]) -> list[Alarm]:
        """The alarms that this update raises."""
        self._curves.add(metrics)
        found = _alarms(self._curves, self._settings)
        new = [alarm for alarm in found if alarm.step - self._seen.get(alarm.kind, -QUIET) >= QUIET]
        self._seen |= {alarm.kind: alarm.step for alarm in found}
        return new


def _alarms(curves: Curves, settings: MonitorSettings) -> list[Alarm]:
    """What a monitor sees lies in the newest updates, so those before them are the last sound ones."""
    found = []
    for kind, monitor in MONITORS.items():
        said = None if kind in settings.ignore else monitor.look(curves)
        if said:
            sound = 0 if monitor.always else max(0, curves.step - RECENT)
            found.append(Alarm(kind, curves.step, said, monitor.advice, sound))
    return found
