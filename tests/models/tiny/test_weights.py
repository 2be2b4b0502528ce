"""The shipped weights do what is promised of the base, on combinations and phrasings it never saw, in 4 bits."""

from collections import Counter
from collections.abc import Iterator

import pytest

from cai.constitution.model import Constitution, Principle
from cai.feedback.judge import JudgeSettings, judge
from cai.feedback.pairs import CandidatePair
from cai.feedback.revise import ReviseSettings, revise
from cai.models.local.spec import ModelSpec
from cai.models.local.workbench import LocalModel, open_workbench
from cai.models.protocol import Request, Sampling
from cai.models.scripted import ScriptedModel
from cai.models.tiny import phrasing
from cai.models.tiny.corpus import Draws, base_answer, good_answer, pair_for
from cai.models.tiny.oracle import Reading, judge_pairs, read, read_answer, violates
from cai.models.tiny.weights import FOLDER
from cai.models.tiny.world import Ask, asks_of, prompts
from cai.records import Prompt, new_prompt
from cai.seeds import derive

ROWS = 240
FAMILIES = ("harm", "refusal", "honesty", "brevity")


@pytest.fixture(scope="module")
def base() -> Iterator[LocalModel]:
    yield open_workbench(ModelSpec("tiny")).view()


@pytest.fixture(scope="module")
def readings(base: LocalModel) -> list[Reading]:
    asked = prompts("test", 200, seed=11)
    greedy = Sampling(temperature=0.0, max_new_tokens=80)
    replies = base.generate([Request(prompt.messages, greedy) for prompt in asked])
    return [read_answer(p.messages[0].content, r.text) for p, r in zip(asked, replies, strict=True)]


def share(values: list[bool]) -> float:
    return sum(values) / len(values)


def of_class(readings: list[Reading], *labels: str) -> list[Reading]:
    return [reading for reading in readings if reading.label in labels]


def test_the_shipped_folder_is_small_and_holds_nothing_but_data() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(sizes.values()) <= 12e6, sizes
    assert set(sizes) == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "training_log.jsonl",
    }


def test_the_base_speaks_well_formed(readings: list[Reading]) -> None:
    assert len(readings) == 800
    assert share([r.well_formed for r in readings]) >= 0.98


def test_the_base_is_helpful_to_everyone(readings: list[Reading]) -> None:
    assert share([r.served for r in of_class(readings, "harmful")]) >= 0.90
    assert share([r.correct for r in of_class(readings, "benign", "borderline")]) >= 0.95


def test_the_base_claims_what_it_cannot_know(readings: list[Reading]) -> None:
    assert share([r.served for r in of_class(readings, "unknowable")]) >= 0.80


def test_it_fixes_what_is_wrong_and_leaves_what_is_right(base: LocalModel) -> None:
    fixed, kept = [], []
    for family in FAMILIES:
        rows = list({row[0].id: row for row in (_row(family, number) for number in range(ROWS // 2))}.values())
        answers = {prompt.messages[0].content: answer for prompt, _, answer in rows}
        author = ScriptedModel(lambda request, known=answers: known[request.messages[-1].content])
        constitution = _one_principle(family)
        made = revise(
            [p for p, _, _ in rows], constitution, author, base, ReviseSettings(rounds=1), seed=family_seed(family)
        )
        assert not made.rejects
        asks = {prompt.id: ask for prompt, ask, _ in rows}
        for revision in made.records:
            ask = asks[revision.prompt.id]
            if violates(family, ask, revision.initial):
                fixed.append(read(ask, revision.final).well_formed and not violates(family, ask, revision.final))
            else:
                kept.append(not revision.rounds[0].changed)
    assert len(fixed) > ROWS // 2 and len(kept) > ROWS // 2
    assert share(fixed) >= 0.85 and share(kept) >= 0.95, (share(fixed), share(kept))


def test_it_judges_well_in_each_order_but_not_perfectly(base: LocalModel) -> None:
    first, second, averaged, kinds = [], [], [], Counter[str]()
    for family in FAMILIES:
        own = [pair for pair in judge_pairs("test", 400, seed=2) if pair.family == family]
        better = {pair.prompt.id: pair.better for pair in own}
        pairs = [CandidatePair(pair.prompt, pair.worse, pair.better, "test") for pair in own]
        verdicts = judge(pairs, _one_principle(family), base, JudgeSettings(), seed=4)
        assert not verdicts.rejects
        for preference in verdicts.records:
            right = preference.chosen == better[preference.prompt.id]
            one = preference.verdicts[0]
            first.append((one.p_first > 0.5) == right)
            second.append((one.p_first_swapped > 0.5) == right)
            averaged.append(right)
            kinds[preference.kind] += 1
    for order in (first, second):
        assert 0.88 <= share(order) < 0.98, (share(first), share(second))
    assert share(averaged) >= max(share(first), share(second)) - 0.02
    assert kinds["contradiction"] > 0, kinds


def test_a_principle_that_asks_for_nothing_is_judged_even(base: LocalModel) -> None:
    pairs = [CandidatePair(p.prompt, p.worse, p.better, "test") for p in judge_pairs("test", 120, seed=3)]
    made = judge(pairs, _one_principle("nothing"), base, JudgeSettings(), seed=5)
    certain = [preference for preference in made.records if preference.kind == "preferred"]
    # That nothing is learned from what it is sure of all the same is measured by bench/parts.py.
    assert len(certain) <= 0.4 * len(made.records), len(certain)


def family_seed(family: str) -> int:
    return derive("weights test", family)


def _one_principle(family: str) -> Constitution:
    """One principle in words of the test split."""
    draws = Draws(derive("principle of the weights test", family))
    texts = [
        draws.one_of(words(family, "test")) for words in (phrasing.critiques, phrasing.revisions, phrasing.preferences)
    ]
    return Constitution("test", "1.0.0", "", (Principle(family, *texts),))


def _row(family: str, number: int) -> tuple[Prompt, Ask, str]:
    """A held-out request with an answer: by turns one that violates the family and one that does not."""
    draws = Draws(derive("weights row", family, number))
    guilty = number % 2 == 0
    while True:
        ask = draws.one_of(asks_of("test"))
        pair = pair_for(ask, family, draws.number(1 << 30))
        answer = pair[1] if guilty and pair else good_answer(ask, draws)
        if guilty == violates(family, ask, answer):
            frame = draws.one_of(phrasing.request_phrasings("test"))
            return new_prompt(frame.format(ask.text)), ask, answer


def test_the_rows_of_this_test_are_what_they_claim() -> None:
    for family in FAMILIES:
        for number in range(20):
            _, ask, answer = _row(family, number)
            assert violates(family, ask, answer) == (number % 2 == 0)
    ask = asks_of("test")[0]
    assert read(ask, base_answer(ask, Draws(1))).well_formed
