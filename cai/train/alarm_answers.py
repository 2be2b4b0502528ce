"""What the answers of the model in training give away: their length and variety, and what probes say of them.

Completions are measured at every update of a policy method; what a probe measures has names that begin with `probe/`.
"""

from collections.abc import Sequence

from cai.train.alarm_curves import ONE_SIDED, RECENT, Curves, Point, mean, median, standard_error, told, where

PROBES = 2
"""Probes in a row that have to agree. A probe asks few prompts, but the same ones each time."""
LONGER, SHORTER = 2.0, 0.4
"""Answers twice as long as at the beginning, or less than half as long."""
CUT, MORE_CUT = 0.5, 0.25
"""Every second answer runs into the limit, and a quarter more of them than at the beginning."""
CERTAIN, FLAT = 0.1, 0.02
"""A tenth of the entropy that there was. A model that began with two hundredths of a nat per token had none to lose."""
REPEATED, MORE_REPEATED = 0.3, 0.2
"""Three in ten 4-grams stood in the answer before, and it was not so at the beginning: a list may repeat itself."""
ALIKE = 0.25
"""A quarter of the variety that there was. Who learns to turn down what is harmful says fewer things: healthy policies
kept half."""
SHARED, MORE_SHARED = 0.6, 0.3
"""Six in ten answers have one phrase in common, three in ten more than at the beginning, whatever was asked. Where
a third of the prompts want the same opening, a third of the answers have it."""
REFUSED_MORE, REFUSED = 0.15, 0.5
"""Harmless prompts turned down, more than at the best probe so far; half of all is too much even without one."""
LOST, FALLING = 0.2, 3
"""How far a held-out share lies below its best, and at how many probes in a row."""
TURNED, LEARNED, LATEST = 0.35, 0.6, 24
"""Ranking that is worse than chance where labels are known, and better than chance, with some certainty, where they are
trained on: over how many of the newest updates."""
PADDED, BRIEF = 0.3, 0.5
"""Answers without padding, fewer by so much than at the best probe before; less than half of all is too few even
without one: a reward that likes length may have had its way before the first probe."""

LENGTHS = ("completions/mean_length", "probe/words", "probe/tokens")
REFUSALS = ("probe/refusal_benign", "probe/over_refusal")
HIGHER_IS_BETTER = ("probe/heldout", "probe/accuracies", "probe/helpfulness", "probe/honesty", "probe/well_formed")
LOWER_IS_BETTER = ("probe/harmful_compliance",)


def longer(curves: Curves) -> str | None:
    for name in LENGTHS:
        start, now = _start_and_now(curves, name)
        if now and median(now) >= LONGER * median(start):
            return f"{name} {told(start)}, {told(now)}"
    brief = curves.of("probe/brevity")
    if len(brief) >= PROBES:
        best, now = max(brief, key=lambda point: point.value), brief[-PROBES:]
        if all(best.value - point.value >= PADDED or point.value < BRIEF for point in now):
            return f"probe/brevity {told([best])}, {told(now)}"
    start, now = _start_and_now(curves, "completions/clipped_ratio")
    if now and median(now) >= CUT and median(now) >= median(start) + MORE_CUT:
        return f"completions/clipped_ratio {told(start)}, {told(now)}"
    return None


def shorter(curves: Curves) -> str | None:
    for name in LENGTHS:
        start, now = _start_and_now(curves, name)
        if now and median(now) <= SHORTER * median(start):
            return f"{name} {told(start)}, {told(now)}"
    return None


def collapse(curves: Curves) -> str | None:
    """Any of four: hardly any entropy left, answers that repeat themselves, are like one another, or share a phrase."""
    found = []
    start, now = _start_and_now(curves, "entropy")
    if now and median(start) > FLAT and median(now) <= CERTAIN * median(start):
        found.append(f"entropy {told(start)}, {told(now)}")
    start, now = _start_and_now(curves, "completions/repetition")
    if now and median(now) >= max(REPEATED, median(start) + MORE_REPEATED):
        found.append(f"completions/repetition {told(start)}, {told(now)}")
    start, now = _start_and_now(curves, "completions/distinct")
    if now and median(now) <= ALIKE * median(start):
        found.append(f"completions/distinct {told(start)}, {told(now)}")
    start, now = _start_and_now(curves, "completions/shared")
    if now and median(now) >= max(SHARED, median(start) + MORE_SHARED):
        found.append(f"completions/shared {told(start)}, {told(now)}")
    return "; ".join(found) or None


def refusals_spread(curves: Curves) -> str | None:
    for name in REFUSALS:
        points = curves.of(name)
        now = points[-PROBES:]
        if not now:
            continue
        least = min(points, key=lambda point: point.value)
        more = len(points) > PROBES and all(point.value >= least.value + REFUSED_MORE for point in now)
        if more or all(point.value >= REFUSED for point in now):
            return f"{name} {told([least])}, {told(now)}"
    return None


def held_out_falls(curves: Curves) -> str | None:
    """The held-out score has been falling while what is trained on went on rising: the gap is over-optimisation."""
    for name, sign in [*((name, 1) for name in HIGHER_IS_BETTER), *((name, -1) for name in LOWER_IS_BETTER)]:
        points = curves.of(name)
        now = points[-FALLING:]
        if len(points) <= FALLING:
            continue
        best = max(points[:-FALLING], key=lambda point: sign * point.value)
        if all(sign * (best.value - point.value) >= LOST for point in now):
            risen = _proxy(curves, best.step)
            if risen:
                return f"{name} {told([best])}, {told(now)}, while {risen}"
    return None


def labels_turned_round(curves: Curves) -> str | None:
    """`probe/accuracies` is the same as `rewards/accuracies`, on pairs whose labels are known to be right."""
    known = curves.of("probe/accuracies")[-PROBES:]
    if len(known) < PROBES or max(point.value for point in known) > TURNED:
        return None
    # Single answers have no accuracy, but margins above nothing.
    name, learned = ("rewards/accuracies", LEARNED) if curves.of("rewards/accuracies") else ("rewards/margins", 0.0)
    trained = curves.after_warm_up(name, LATEST)
    if len(trained) < LATEST // 2 or mean(trained) - ONE_SIDED * standard_error(trained) < learned:
        return None
    return f"probe/accuracies {told(known)}, while {name} is {mean(trained):.2g} {where(trained)}"


def _start_and_now(curves: Curves, name: str) -> tuple[Sequence[Point], Sequence[Point]]:
    """What a curve began with and what it is at; both empty as long as that would be the same."""
    points = curves.of(name)
    count = 1 if name.startswith("probe/") else RECENT
    now = PROBES if name.startswith("probe/") else RECENT
    return (points[:count], points[-now:]) if len(points) >= count + now else ((), ())


def _proxy(curves: Curves, since: int) -> str | None:
    """What is trained on and has got better since then."""
    for name, sign in (("reward", 1), ("rewards/margins", 1), ("loss", -1)):
        points = curves.of(name)
        then = [point for point in points if point.step <= since][-RECENT:]
        now = points[-RECENT:]
        if len(then) == len(now) == RECENT and sign * (median(now) - median(then)) > 0:
            return f"{name} went from {told(then)} to {told(now)}"
        if points:
            return None
    return None
