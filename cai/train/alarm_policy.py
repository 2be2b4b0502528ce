"""What the metrics of policy methods give away: rewards, the way from the reference, ratios, entropy.

What their answers look like is `alarm_answers`' business.
"""

from collections.abc import Iterator, Sequence

from cai.train.alarm_curves import RECENT, Curves, Point, median, told, where

NEVER_APART = 0.99
"""The share of groups in which every answer got the same reward: with all of them, no answer is better than another."""
EQUAL = 1e-6
"""Rewards that differ by less are the same number with rounding."""
FAR, FAR_PER_TOKEN, FAR_UNKNOWN = 10.0, 0.5, 50.0
"""Nats between policy and reference on one answer. At half a nat per token the policy gives its tokens 1.6 times the
probability that the reference gives them. Ten are not much on any answer; where no length is measured it is fifty."""
FIRST_RATIO = 0.02
"""Before the first step of an update the policy is the one that sampled: its ratio is 1. Kernels in bf16 that batch
differently leave some thousandths."""
STEPPED_OVER, RATIO_OFF = 0.5, 0.5
"""Half of all tokens clipped: most of an update's gradient is thrown away, where healthy ones clip a tenth or so. The
mean ratio is 1 whatever the policy, but for chance; at half as much again it rests on a few tokens."""


def constant_reward(curves: Curves) -> str | None:
    """Groups without differences where the trainer counts them, else no spread at all."""
    beside = f"; reward {told(curves.of('reward')[-RECENT:])}" if curves.of("reward") else ""
    for shares in _newest(curves, "frac_reward_zero_std"):
        if min(point.value for point in shares) >= NEVER_APART:
            return f"frac_reward_zero_std {told(shares)}{beside}"
    for spreads in _newest(curves, "reward_std"):
        if max(point.value for point in spreads) <= EQUAL:
            return f"reward_std is 0 {where(spreads)}{beside}"
    return None


def _newest(curves: Curves, name: str) -> Iterator[Sequence[Point]]:
    """The newest rounds; and, where half of them are left, those in which no answer was cut: what an answer that was
    cut is worth is up to the limit, whatever the reward says of it."""
    newest = curves.of(name)[-RECENT:]
    if len(newest) == RECENT:
        cut = {point.step for point in curves.of("completions/clipped_ratio") if point.value > 0}
        whole = [point for point in newest if point.step not in cut]
        yield newest
        if 2 * len(whole) >= RECENT:
            yield whole


def told_apart(curves: Curves, since: int) -> bool:
    """Whether any answer since then got another reward than its rivals; so it is taken to be where none is measured."""
    shares, spreads = (
        [point.value for point in curves.of(name) if point.step >= since]
        for name in ("frac_reward_zero_std", "reward_std")
    )
    return min(shares) < NEVER_APART if shares else not spreads or max(spreads) > EQUAL


def kl_runs_away(curves: Curves) -> str | None:
    """`kl` is of whole answers, in nats: the sum over their tokens."""
    now = curves.of("kl")[-RECENT:]
    if len(now) < RECENT:
        return None
    lengths = curves.of("completions/mean_length")[-RECENT:]
    limit = max(FAR, FAR_PER_TOKEN * median(lengths)) if lengths else FAR_UNKNOWN
    return f"kl {told(now)}, where {limit:.3g} is far" if median(now) > limit else None


def first_ratio_off(curves: Curves) -> str | None:
    points = curves.of("ratio/first")[-RECENT:]
    if len(points) < RECENT or abs(median(points) - 1) <= FIRST_RATIO:
        return None
    return f"ratio/first {told(points)}"


def steps_too_large(curves: Curves) -> str | None:
    # Before the first step of a round nothing can be clipped.
    first = {point.step for point in curves.of("ratio/first")}
    clipped, ratios = (
        [point for point in curves.of(name) if point.step not in first][-RECENT:] for name in ("clip_ratio", "ratio")
    )
    if len(clipped) == RECENT and median(clipped) > STEPPED_OVER:
        return f"clip_ratio {told(clipped)}"
    if len(ratios) == RECENT and abs(median(ratios) - 1) > RATIO_OFF:
        return f"ratio {told(ratios)}"
    return None
