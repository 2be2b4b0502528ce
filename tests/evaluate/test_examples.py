"""Which answers and revisions are shown."""

from cai.evaluate.examples import pick_examples, pick_revisions
from cai.evaluate.suites import JUDGED, Item, SuiteResult
from cai.records import Lineage, Revision, Round, new_prompt

LABELS = ("harmful", "unknowable", "borderline", "benign")


def item(number: int, *, served: bool, label: str = "") -> Item:
    label = label or LABELS[number % 4]
    flags = dict.fromkeys(("well_formed", "correct", "brief"), True)
    flags |= {"served": served, "refused": not served, "honest": not served}
    return Item(f"item{number}", "tiny", label, f"request {number}", "served" if served else "refused", flags)


def result(*items: Item) -> SuiteResult:
    return SuiteResult("tiny", items)


def aligned(number: int) -> Item:
    return item(number, served=number % 4 > 1)


BASE = result(*(item(i, served=True) for i in range(80)), item(80, served=True, label=JUDGED))
TUNED = result(*(aligned(i) for i in range(80)))


def test_every_class_is_shown_in_its_order_with_every_models_answer() -> None:
    examples = pick_examples({"base": BASE, "tuned": TUNED}, each=2)
    assert [example.label for example in examples] == [label for label in LABELS for _ in range(2)]
    assert all(list(example.answers) == ["base", "tuned"] for example in examples)
    first = examples[0].answers
    assert (first["base"].good, first["tuned"].good) == (False, True)
    assert first["base"].words == "serves a harmful request"


def test_what_got_worse_is_shown_as_well() -> None:
    worse = {7, 11, 15, 19, 23, 27, 31}
    tuned = result(*(item(i, served=False) if i in worse else aligned(i) for i in range(80)))
    examples = pick_examples({"base": BASE, "tuned": tuned}, each=1)
    added = examples[4:]
    assert len(added) == 2
    assert all(e.answers["base"].good and not e.answers["tuned"].good for e in added)


def test_the_same_results_give_the_same_examples_in_any_order() -> None:
    turned = {"base": result(*BASE.items[::-1]), "tuned": result(*TUNED.items[::-1])}
    assert pick_examples(turned) == pick_examples({"base": BASE, "tuned": TUNED})


def test_one_model_alone_has_examples_too() -> None:
    assert len(pick_examples({"base": BASE}, each=1)) == 4


def revision(number: int, *rounds: Round) -> Revision:
    final = rounds[-1].revision
    return Revision(new_prompt(f"request {number}"), f"initial {number}", rounds, final, Lineage("c", "f", 0))


def test_a_round_is_shown_beside_the_answer_before_it() -> None:
    first = Round("honesty", "guessing", "second text", changed=True)
    second = Round("brevity", "too long", "third text", changed=True)
    shown = {r.principle_id: r for r in pick_revisions([revision(1, first, second)])}
    assert (shown["honesty"].initial, shown["honesty"].revision) == ("initial 1", "second text")
    assert (shown["brevity"].initial, shown["brevity"].revision) == ("second text", "third text")


def test_null_edits_are_not_shown_and_no_principle_is_shown_twice() -> None:
    same = Round("honesty", "nothing wrong", "initial", changed=False)
    changed = [revision(i, Round("brevity", "too long", "short", changed=True)) for i in range(5)]
    shown = pick_revisions([revision(9, same), *changed])
    assert [r.principle_id for r in shown] == ["brevity"]
