"""What loss, gradient and preference metrics give away: each function says what it saw, or nothing.

Thresholds stand beside their reason. They were chosen on trainings of the embedded model; `bench/alarms.py` measures
them on others. What is to be done about a finding stands in `monitors`.
"""

from cai.train.alarm_curves import RECENT, Curves, mean, median, standard_error, told, where
from cai.train.alarm_policy import constant_reward

START = 3
"""Updates at the beginning that later ones are compared with: few, because a learning rate a hundred times too high
has done its work by the fourth."""
WORSE = 1.5
"""A loss half as high again as the untrained model's. Batches differ by a third, medians of eight by far less."""
STEEPER = 10.0
"""Gradients of healthy trainings grow up to fivefold once the adapter's second matrix has left zero."""
FALLEN_NATS, FALLEN_SHARE = 10.0, 0.5
"""How much less probable chosen answers may become. DPO takes a little from both answers of a pair; a healthy rate took
less than 4 nats from short answers, ten times that rate 8, thirty times 130. Long answers have more to lose, so for them
it is a share of what they began with."""
LABELLED, LATEST = 12, 100
"""Updates it takes to say that labels teach nothing, and how many of the newest are looked at."""
BARELY = 0.58
"""A training whose accuracy lies below this with some certainty learns next to nothing from its labels; judges that are
right in seven of ten cases reach 0.65."""
ONE_SIDED, TWICE = 1.645, 2.0
"""Standard errors: a bound that holds in 95 of 100 cases, and a mean that can be told from zero."""
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
    if curves.of("reward") or len(points) < START + RECENT:
        return None
    start, now = points[:START], points[-RECENT:]
    if median(start) <= 0 or median(now) <= WORSE * median(start):
        return None
    return f"loss {told(start)}, {told(now)}"


def gradient_explodes(curves: Curves) -> str | None:
    points = curves.of("grad_norm")
    # A policy method's first batches may teach nothing, and then have no gradient.
    start = [point for point in points[: 2 * RECENT] if point.value > 0][:START]
    now = points[-RECENT:]
    if len(start) < START or len(points) < START + RECENT or median(now) <= STEEPER * median(start):
        return None
    return f"grad_norm {told(start)}, {told(now)}"


def chosen_falls(curves: Curves) -> str | None:
    """The reward is the same fall pair by pair, so a batch of longer answers is not taken for one."""
    points, rewards = curves.of("logps/chosen"), curves.of("rewards/chosen")
    if len(points) < START + RECENT or len(rewards) < RECENT or median(rewards[-RECENT:]) >= 0:
        return None
    start, now = points[:START], points[-RECENT:]
    fall = median(start) - median(now)
    if fall <= max(FALLEN_NATS, FALLEN_SHARE * abs(median(start))):
        return None
    rate = fall / (now[-1].step - start[0].step)
    rejected = curves.of("logps/rejected")
    beside = f"; logps/rejected {told(rejected[:START])}, {told(rejected[-RECENT:])}" if len(rejected) >= RECENT else ""
    return f"logps/chosen {told(start)}, {told(now)}: {rate:.2g} nats lost per update{beside}"


def labels_teach_nothing(curves: Curves) -> str | None:
    """Accuracy is, with some certainty, next to a half, and margins cannot be told from zero, although the policy moves.

    Only after the warm-up, and only while nothing has blown up: a ruined policy ranks at random too.
    """
    accuracies = curves.after_warm_up("rewards/accuracies", LATEST)
    margins = curves.after_warm_up("rewards/margins", LATEST)
    if min(len(accuracies), len(margins)) < LABELLED or all(abs(point.value) <= MOTIONLESS for point in margins):
        return None
    learned = mean(accuracies) + ONE_SIDED * standard_error(accuracies) >= BARELY
    if learned or mean(margins) > TWICE * standard_error(margins):
        return None
    if loss_explodes(curves) or gradient_explodes(curves) or chosen_falls(curves):
        return None
    loss = curves.of("loss")[-RECENT:]
    return (
        f"rewards/accuracies {mean(accuracies):.2f} and rewards/margins {mean(margins):.2g} on average "
        f"{where(accuracies)}; loss {told(loss)} (ln 2 is 0.693); grad_norm {told(curves.of('grad_norm')[-RECENT:])}"
    )


def nothing_moves(curves: Curves) -> str | None:
    """No gradient arrives, or the policy stays what its reference is, to the last bit.

    Not where rewards are constant: then there is nothing to move for, and another alarm says so.
    """
    if constant_reward(curves):
        return None
    norms, losses = curves.of("grad_norm")[-STILL:], curves.of("loss")[-STILL:]
    if len(norms) == STILL and not any(point.value for point in norms):
        satisfied = curves.of("rewards/margins") and median(losses) <= NOTHING_LEFT
        return None if satisfied else f"grad_norm is exactly 0 {where(norms)}, and the loss is {told(losses)}"
    for name in ("rewards/margins", "kl"):
        points = curves.after_warm_up(name, STILL)
        if len(points) == STILL and all(abs(point.value) <= MOTIONLESS for point in points):
            return f"{name} is 0 {where(points)}, although gradients arrive: grad_norm {told(norms)}"
    return None
