"""What changed between two versions, word by word, and the step that a change calls for."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cai.constitution.diff import Words, compare, word_changes
from cai.constitution.loading import parse_constitution
from cai.constitution.model import ComparisonExample, Constitution, Principle, PrincipleTest

WORDS = st.lists(st.sampled_from(["the", "answer", "is", "not", "less", "harmful?"]), max_size=12)
Change = Callable[[Constitution], Constitution]


def first(**changes: object) -> Change:
    """A change to the sample's first principle."""
    return lambda c: replace(c, principles=(replace(c.principles[0], **changes), *c.principles[1:]))


CHANGES: dict[str, tuple[Change, str]] = {
    "nothing": (lambda c: c, "none"),
    "another order": (lambda c: replace(c, principles=c.principles[::-1]), "none"),
    "another file": (lambda c: replace(c, path="elsewhere.yaml"), "none"),
    "title": (lambda c: replace(c, title="Another"), "patch"),
    "tests": (first(tests=(PrincipleTest("a", "b", "c"),)), "patch"),
    "a word": (first(critique="Point out made-up claims."), "minor"),
    "a weight": (first(weight=3.0), "minor"),
    "examples": (lambda c: replace(c, comparisons=(ComparisonExample("to-the-point", "a", "b", "c"),)), "minor"),
    "a principle more": (
        lambda c: replace(c, principles=(*c.principles, Principle("new", "c", "r", "q"))),
        "minor",
    ),
    "a principle less": (lambda c: replace(c, principles=c.principles[1:]), "major"),
    "another id of a principle": (first(id="renamed"), "major"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_calls_for_its_step(sample: Constitution, change: str) -> None:
    make, step = CHANGES[change]
    assert compare(sample, make(sample)).step == step


def test_added_removed_reworded_and_reweighted_are_named(sample: Constitution) -> None:
    a, b = sample.principles
    new = replace(
        sample,
        title="Another",
        principles=(
            replace(a, preference="Which answer holds no made-up claims?", weight=1.0),
            Principle("c", "", "", "q"),
        ),
    )
    changes = compare(sample, new)
    assert [p.id for p in changes.added] == ["c"]
    assert [p.id for p in changes.removed] == [b.id]
    assert [(r.principle_id, r.field) for r in changes.reworded] == [(a.id, "preference")]
    assert changes.reworded[0].words == (
        Words("same", "Which answer holds"),
        Words("removed", "fewer"),
        Words("added", "no"),
        Words("same", "made-up claims?"),
    )
    weighed = changes.reweighted[0]
    assert (weighed.old, weighed.new, weighed.old_share, weighed.new_share) == (2.0, 1.0, 2 / 3, 1 / 2)
    assert (changes.title_changed, changes.examples_changed, changes.tests_changed) == (True, False, ())


def test_the_order_of_tests_is_no_change(sample: Constitution) -> None:
    tests = (PrincipleTest("a", "b", "c"), PrincipleTest("d", "e", "f"))
    changes = compare(first(tests=tests)(sample), first(tests=tests[::-1])(sample))
    assert (changes.step, changes.tests_changed) == ("none", ())


@given(WORDS, WORDS)
def test_the_runs_hold_both_texts(old: list[str], new: list[str]) -> None:
    runs = word_changes(" ".join(old), " ".join(new))
    assert " ".join(r.text for r in runs if r.sort != "added") == " ".join(old)
    assert " ".join(r.text for r in runs if r.sort != "removed") == " ".join(new)
    assert all(r.sort == "same" for r in runs) == (old == new)


@pytest.mark.parametrize(
    ("change", "old", "new", "warning"),
    [
        ("title", "1.2.0", "1.2.1", ""),
        ("title", "1.2.0", "1.2.0", "call for a patch step, at least 1.2.1, but the version is 1.2.0"),
        ("a word", "1.2.0", "1.2.1", "call for a minor step, at least 1.3.0, but the version is 1.2.1"),
        ("a word", "1.2.0", "1.3.0", ""),
        ("a word", "1.9.0", "1.10.0", ""),
        ("a word", "1.2.0", "2.0.0", ""),
        ("a principle less", "1.2.0", "1.3.0", "call for a major step, at least 2.0.0, but the version is 1.3.0"),
        ("a principle less", "1.2.0", "2.0.0", ""),
        ("a principle less", "0.2.0", "0.3.0", ""),
        ("a principle less", "0.2.0", "0.2.1", "call for a minor step, at least 0.3.0"),
        ("a word", "1.2.0", "1.1.9", "the version goes back from 1.2.0 to 1.1.9"),
        ("nothing", "1.2.0", "1.2.0", ""),
        ("nothing", "1.2.0", "1.2.1", ""),
        ("a word", "1.3.0-rc.1", "1.3.0", ""),
        ("a word", "1.3.0-rc.1", "1.3.0-rc.1", "call for a minor step"),
    ],
)
def test_a_version_that_takes_too_small_a_step_is_warned_of(
    sample: Constitution, change: str, old: str, new: str, warning: str
) -> None:
    changed = replace(CHANGES[change][0](sample), version=new)
    told = compare(replace(sample, version=old), changed).warning
    assert warning in told
    assert bool(warning) == bool(told)


def test_another_constitution_has_no_comparable_version(sample: Constitution) -> None:
    changes = compare(sample, replace(sample, id="other", version="9.0.0"))
    assert changes.id_changed
    assert "'other' is another constitution than 'sample'" in changes.warning


def test_a_file_compared_with_its_shuffled_self_shows_nothing(sample_text: str, sample: Constitution) -> None:
    head, rest = sample_text.split("principles:\n")
    body, examples = rest.split("examples:\n")
    second = body.index("  - id: to-the-point")
    shuffled = f"{head}examples:\n{examples}principles:\n{body[second:]}{body[:second]}"
    changes = compare(sample, parse_constitution(shuffled, "y.yaml"))
    assert (changes.step, changes.added, changes.removed, changes.reworded, changes.reweighted) == (
        "none",
        (),
        (),
        (),
        (),
    )
