"""What changed between two versions of a constitution, and which step of its version that calls for.

A version says what its users must expect. A removed principle is a **major** step: something that was asked of the
model no longer is, and records that name the principle lose it. Any other change of behaviour (a principle added,
reworded or weighted anew, other examples) is a **minor** step: the data must be made again, its meaning stays. Title
and tests are a **patch**. Order, comments and layout are nothing. Below 1.0.0 a minor step is enough for everything.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

from semver import Version

from cai.constitution.model import TEXTS, Constitution, Principle

Step = Literal["none", "patch", "minor", "major"]
Sort = Literal["same", "removed", "added"]

_RANK = {"none": 0, "patch": 1, "minor": 2, "major": 3}


@dataclass(frozen=True)
class Words:
    """A run of words that both texts have, or only the old one, or only the new one."""

    sort: Sort
    text: str


@dataclass(frozen=True)
class Rewording:
    """One text of one principle, word by word."""

    principle_id: str
    field: str
    words: tuple[Words, ...]


@dataclass(frozen=True)
class Reweighting:
    """A principle's weight, and its share of all weights, before and after."""

    principle_id: str
    old: float
    new: float
    old_share: float
    new_share: float


@dataclass(frozen=True)
class ConstitutionDiff:
    added: tuple[Principle, ...]
    removed: tuple[Principle, ...]
    reworded: tuple[Rewording, ...]
    reweighted: tuple[Reweighting, ...]
    examples_changed: bool
    tests_changed: tuple[str, ...]
    """The principles in both versions whose tests differ."""
    title_changed: bool
    id_changed: bool
    old_version: str
    new_version: str
    step: Step
    """The step that the changes call for."""
    warning: str
    """What is wrong with the step that the version took; empty when nothing is."""


def compare(old: Constitution, new: Constitution) -> ConstitutionDiff:
    before = {principle.id: principle for principle in old.principles}
    after = {principle.id: principle for principle in new.principles}
    both = [(before[name], after[name]) for name in before if name in after]
    tests_changed = tuple(a.id for a, b in both if _tests(a) != _tests(b))
    step = _step(old, new, bool(tests_changed))
    return ConstitutionDiff(
        added=tuple(principle for name, principle in after.items() if name not in before),
        removed=tuple(principle for name, principle in before.items() if name not in after),
        reworded=tuple(
            Rewording(a.id, name, word_changes(a.text(name), b.text(name)))
            for a, b in both
            for name in TEXTS
            if a.text(name) != b.text(name)
        ),
        reweighted=tuple(
            Reweighting(a.id, a.weight, b.weight, _share(old, a), _share(new, b))
            for a, b in both
            if a.weight != b.weight
        ),
        examples_changed=(old.critiques, old.comparisons) != (new.critiques, new.comparisons),
        tests_changed=tests_changed,
        title_changed=old.title != new.title,
        id_changed=old.id != new.id,
        old_version=old.version,
        new_version=new.version,
        step=step,
        warning=_warning(old, new, step),
    )


def word_changes(old: str, new: str) -> tuple[Words, ...]:
    """Both texts in one sequence of runs: the old text is what was not added, the new one what was not removed."""
    a, b = old.split(), new.split()
    runs: list[Words] = []
    for tag, i, j, k, m in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            runs.append(Words("same", " ".join(a[i:j])))
            continue
        if i < j:
            runs.append(Words("removed", " ".join(a[i:j])))
        if k < m:
            runs.append(Words("added", " ".join(b[k:m])))
    return tuple(runs)


def _step(old: Constitution, new: Constitution, tests_changed: bool) -> Step:
    kept = {principle.id for principle in new.principles}
    if old.id != new.id or any(principle.id not in kept for principle in old.principles):
        return "major"
    if old.behaviour_digest != new.behaviour_digest:
        return "minor"
    return "patch" if tests_changed or old.title != new.title else "none"


def _tests(principle: Principle) -> list[tuple[str, str, str]]:
    return sorted((test.prompt, test.better, test.worse) for test in principle.tests)


def _share(constitution: Constitution, principle: Principle) -> float:
    return principle.weight / sum(each.weight for each in constitution.principles)


def _warning(old: Constitution, new: Constitution, step: Step) -> str:
    if old.id != new.id:
        return f"'{new.id}' is another constitution than '{old.id}': their versions cannot be compared"
    a, b = Version.parse(old.version), Version.parse(new.version)
    if b < a:
        return f"the version goes back from {a} to {b}"
    # A pre-release comes before its version: it counts as the step to that version.
    if a.to_tuple()[:3] == b.to_tuple()[:3]:
        taken: Step = "none"
    elif a.major != b.major:
        taken = "major"
    else:
        taken = "minor" if a.minor != b.minor else "patch"
    needed: Step = "minor" if step == "major" and a.major == b.major == 0 else step
    moving = a.prerelease is not None and b > a
    if _RANK[taken] >= _RANK[needed] or moving:
        return ""
    return f"these changes call for a {needed} step, at least {_next(a, needed)}, but the version is {b}"


def _next(version: Version, step: Step) -> Version:
    return {"major": version.bump_major, "minor": version.bump_minor, "patch": version.bump_patch}[step]()
