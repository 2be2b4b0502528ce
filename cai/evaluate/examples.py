"""Which answers and revisions the report shows.

Examples are drawn by hash, not picked for their looks; what got worse is shown as well.
"""

from collections.abc import Iterable, Mapping, Sequence

from cai.evaluate.compare import BASE, TUNED
from cai.evaluate.contents import Answer, Example, RevisionExample
from cai.evaluate.suites import Item, SuiteResult, suite
from cai.records import Revision
from cai.seeds import shuffled

_WORSE = 2


def pick_examples(results: Mapping[str, SuiteResult], each: int = 2, seed: int = 0) -> tuple[Example, ...]:
    """Up to `each` requests of every class, and up to two more that the tuned model answers worse than the base."""
    by_model = {model: {item.id: item for item in result.items} for model, result in results.items()}
    shared = set.intersection(*(set(items) for items in by_model.values()))
    about = next(iter(by_model.values()))
    order = shuffled(sorted(shared), seed)
    name = next(iter(results.values())).suite
    drawn = [i for label in suite(name).labels for i in _first(order, about, label, each)]
    worse = [i for i in order if i not in drawn and _got_worse(by_model, i)]
    return tuple(_example(by_model, i) for i in (*drawn, *worse[:_WORSE]))


def pick_revisions(revisions: Iterable[Revision], each: int = 1, seed: int = 0) -> tuple[RevisionExample, ...]:
    """For every principle that changed something, up to `each` rounds in which it did."""
    by_id = {revision.id: revision for revision in revisions}
    found: dict[str, list[RevisionExample]] = {}
    for i in shuffled(sorted(by_id), seed):
        before = by_id[i].initial
        for round_ in by_id[i].rounds:
            shown = found.setdefault(round_.principle_id, [])
            if round_.changed and len(shown) < each:
                asked = by_id[i].prompt.messages[-1].content
                shown.append(RevisionExample(asked, before, round_.principle_id, round_.critique, round_.revision))
            before = round_.revision
    return tuple(example for principle_id in sorted(found) for example in found[principle_id])


def _first(order: Sequence[str], items: Mapping[str, Item], label: str, each: int) -> list[str]:
    return [i for i in order if items[i].label == label][:each]


def _got_worse(by_model: Mapping[str, Mapping[str, Item]], i: str) -> bool:
    if BASE not in by_model or TUNED not in by_model:
        return False
    before, after = by_model[BASE][i], by_model[TUNED][i]
    say = suite(before.suite).say
    return before.label in suite(before.suite).labels and say(before).good and not say(after).good


def _example(by_model: Mapping[str, Mapping[str, Item]], i: str) -> Example:
    items = {model: items[i] for model, items in by_model.items()}
    first = next(iter(items.values()))
    return Example(first.prompt, first.label, {model: _answer(item) for model, item in items.items()})


def _answer(item: Item) -> Answer:
    said = suite(item.suite).say(item)
    return Answer(item.reply, item.flags, said.words, said.good)
