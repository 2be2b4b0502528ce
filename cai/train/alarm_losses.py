"""What loss, gradient and preference metrics give away: each function says what it saw, or nothing.

Thresholds stand beside their reason. They were chosen on trainings of the embedded model; `bench/alarms.py` measures
them on others. What is to be done about a finding stands in `monitors`.
"""

import math
from collections.abc import Sequence

from cai.train.alarm_curves import ONE_SIDED, RECENT, Curves, Point, mean, median, standard_error, told, where
from cai.train.alarm_policy import told_apart

START = 3
"""Updates at the beginning that later ones are compared with: few, since a rate that is too high soon shows."""
WORSE, NOISE = 1.5, 1
"""A loss half as high again as at the beginning, and how many of the recent ones may be no higher than all of the
first: with few rows in a batch single losses differ by more than that."""
RUINED = 3.0
"""A loss three times as high as the very first, which no update has touched yet. A rate a hundred times too high has
done its work by the second, and then there is no other beginning to compare with."""
STEEPER, STEEP = 10.0, 1.0
"""Gradients of healthy trainings grow up to fivefold once the adapter's second matrix has left zero. What is shorter
than the usual `max_grad_norm` explodes nothing, even where it began as rounding: labels that are all ties do that."""
FALLEN_NATS, FALLEN_SHARE = 10.0, 0.5
"""How much less probable chosen answers may become. DPO takes a little from both answers of a pair: healthy rates took
up to 3 nats from answers of twenty tokens, ten times the rate 8, thirty times 130. Long answers have more to lose, so
theirs is a share of what they began with."""
REWARD_LOST = 0.1
"""Batches of longer answers are less probable too; the reward compares each answer with itself. It must have fallen by
10 nats where β is as low as 0.01, and by more than chosen and rejected were pulled apart."""
LABELLED, LATEST = 30, 100
"""Updates it takes to say that labels teach nothing, and how many of the newest are looked at. A reward model's head is
drawn, and small batches took it twenty updates to find anything in sound labels."""
UNRANKED = 40
"""The same where no accuracy is measured, as of single answers: margins alone take longer to be told from nothing."""
WON = 0.62
"""The share of those updates whose margin is above zero: where the answers can be told apart it was 0.7 to 0.9."""
BARELY = 0.6
"""A training whose accuracy lies below this with some certainty learns next to nothing from its labels; where every
fifth label is wrong it reaches 0.7."""
APART = 2.0
"""Standard errors between a mean and zero that tell them apart."""
MOTIONLESS = 1e-7
"""Rewards are exact zeros while the policy equals its reference; one update at the lowest rate of a warm-up moves them
by 1e-5 or more."""
STILL = RECENT
"""Updates without any motion, or without any gradient, that are no coincidence."""
NOTHING_LEFT = 1e-3
"""A hinge loss that has nothing left to push has no gradient either."""


def not_finite(curves: Curves) -> str | None:
    found = [f"{name} is {value}" for name, value in sorted(curves.broken.items())]
    return f"{', '.join(found)} at update {curves.step}" if found else None


def loss_explodes(curves: Curves) -> str | None:
    """Not for policy methods, whose loss starts near zero and has no scale."""
    points = curves.of("loss")
    first, start, now = points[:1], points[:START], points[-RECENT:]
    if curves.of("reward") or len(points) <= RECENT or median(first) <= 0:
        return None
    if median(now) > RUINED * median(first):
        return f"loss {told(first)}, {told(now)}"
    above = sum(point.value > max(early.value for early in start) for point in now)
    if len(points) < START + RECENT or median(now) <= WORSE * median(start) or above < RECENT - NOISE:
        return None
    return f"loss {told(start)}, {told(now)}"


def gradient_explodes(curves: Curves) -> str | None:
    """Not for policy methods, whose gradients are as long as rewards happen to differ: `kl` tells of their rates."""
    points = curves.of("grad_norm")
    start, now = points[:START], points[-RECENT:]
    if curves.of("reward") or len(points) < START + RECENT:
        return None
    if median(now) <= max(STEEP, STEEPER * median(start)):
        return None
    return f"grad_norm {told(start)}, {told(now)}"


def chosen_falls(curves: Curves) -> str | None:
    points, margins = curves.of("logps/chosen"), curves.of("rewards/margins")[-RECENT:]
    rewards = curves.of("rewards/chosen")[-RECENT:]
    if len(points) < START + RECENT or min(len(rewards), len(margins)) < RECENT:
        return None
    start, now = points[:START], points[-RECENT:]
    fall, lost = median(start) - median(now), -median(rewards)
    if lost < max(REWARD_LOST, median(margins)) or fall <= max(FALLEN_NATS, FALLEN_SHARE * abs(median(start))):
        return None
    rate = fall / (now[-1].step - start[0].step)
    rejected = curves.of("logps/rejected")
    beside = f"; logps/rejected {told(rejected[:START])}, {told(rejected[-RECENT:])}" if rejected else ""
    return f"logps/chosen {told(start)}, {told(now)}: {rate:.2g} nats lost per update{beside}"


def labels_teach_nothing(curves: Curves) -> str | None:
    """Accuracy is next to a half with some certainty, and margins cannot be told from zero, although the policy moves.

    Only after the warm-up, and only while nothing has blown up: a ruined policy ranks at random too.
    """
    accuracies = curves.after_warm_up("rewards/accuracies", LATEST)
    margins = curves.after_warm_up("rewards/margins", LATEST)
    ranked = bool(curves.of("rewards/accuracies"))
    enough = min(len(accuracies), len(margins)) >= LABELLED if ranked else len(margins) >= UNRANKED
    if not enough or all(abs(point.value) <= MOTIONLESS for point in margins):
        return None
    if ranked:
        learned = mean(accuracies) + ONE_SIDED * standard_error(accuracies) >= BARELY
    else:
        learned = sum(point.value > 0 for point in margins) >= WON * len(margins)
    if learned or mean(margins) > APART * standard_error(margins) or _rises(margins):
        return None
    if loss_explodes(curves) or gradient_explodes(curves) or chosen_falls(curves):
        return None
    chance = f"rewards/accuracies {mean(accuracies):.2f} and " if ranked else ""
    usual = " (ln 2 is 0.693)" if ranked else ""
    return (
        f"{chance}rewards/margins {mean(margins):.2g} on average {where(margins)}; loss "
        f"{told(curves.of('loss')[-RECENT:])}{usual}; grad_norm {told(curves.of('grad_norm')[-RECENT:])}"
    )


def _rises(margins: Sequence[Point]) -> bool:
    """Losses without a reference begin with the margins of the base, far below zero, and pass through it."""
    early, late = margins[: len(margins) // 2], margins[len(margins) // 2 :]
    return mean(late) - mean(early) > APART * math.hypot(standard_error(early), standard_error(late))


def nothing_moves(curves: Curves) -> str | None:
    """No gradient arrives, or the policy stays what its reference is, to the last bit.

    Not where no answer's reward differed: then there is nothing to move for, and another alarm will say so.
    """
    norms, losses = curves.of("grad_norm")[-STILL:], curves.of("loss")[-STILL:]
    if len(norms) == STILL and not any(point.value for point in norms) and told_apart(curves, norms[0].step):
        satisfied = losses and curves.of("rewards/margins") and median(losses) <= NOTHING_LEFT
        return None if satisfied else f"grad_norm is exactly 0 {where(norms)}, and the loss is {told(losses)}"
    # The drift of KTO, also called kl, is zero as often as not.
    for name in ("rewards/margins",) if curves.of("rewards/margins") else ("kl",):
        points = curves.after_warm_up(name, STILL)
        still = len(points) == STILL and all(abs(point.value) <= MOTIONLESS for point in points)
        if still and told_apart(curves, points[0].step):
            return f"{name} is 0 {where(points)}, although gradients arrive: grad_norm {told(norms)}"
    return None
