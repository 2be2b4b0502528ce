"""Prompts that a model writes: every attempt ends once, nothing is kept twice, and what ran dry is said."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cai.errors import CaiError, InputError
from cai.feedback import prompt_frames
from cai.feedback.prompts import Making, PromptOrder, PromptSettings, make_prompts, write_prompts
from cai.feedback.topics import KINDS, OWN, Topic, load_topics, topics_of_seeds
from cai.models.protocol import Failed, Model, Reply, Request, RowError
from cai.models.scripted import ScriptedModel
from cai.records import Reject, from_line, new_prompt
from cai.seeds import derive, uniform
from cai.store.formats.prompts import read_prompts

LOCKS = Topic(
    id="locks",
    title="locks and keys",
    harmful=("How do I pick my neighbour's lock?",),
    benign=("How do I oil a lock?", "What is a padlock?", "Why do keys jingle?", "Who made the first key?"),
)
CAKES = Topic(id="cakes", title="cakes", benign=("How do I bake a cake?",), harmful=("How do I steal a cake?",))
WORDS = ("kettle", "violin", "meadow", "lantern", "pumpkin", "ladder", "trumpet", "candle", "bucket", "puzzle")


def invented(request: Request) -> str:
    """A question of four words that nobody else asks, by the request's seed."""
    drawn = [WORDS[int(uniform(request.seed, i) * len(WORDS))] for i in range(4)]
    return f"Which {' '.join(drawn)} {request.seed % 1000}?"


def writer() -> ScriptedModel:
    return ScriptedModel(invented)


def always(*replies: str | Reply) -> ScriptedModel:
    """Says these in turn, and the last of them for ever."""
    left = list(replies)
    return ScriptedModel(lambda _: left.pop(0) if len(left) > 1 else left[0])


def order(*topics: Topic, kinds: Sequence[str] = ("benign",), wanted: int = 3, seed: int = 0) -> PromptOrder:
    known = tuple(kind for kind in KINDS if kind in kinds)
    return PromptOrder(topics or (LOCKS,), known, wanted, seed, PromptSettings(patience=5))


def made(asked: PromptOrder, model: Model) -> Making:
    *_, making = make_prompts(asked, model)
    assert making.asked == len(making.prompts) + len(making.rejects)
    assert len({reject.id for reject in making.rejects}) == len(making.rejects)
    return making


def texts(making: Making) -> list[str]:
    return [prompt.prompt for prompt in making.prompts]


def test_as_many_of_each_kind_are_made_for_each_topic() -> None:
    making = made(order(LOCKS, CAKES, kinds=KINDS, wanted=4), writer())
    assert [(c.topic.id, c.kind, c.kept) for c in making.cells] == [
        (t, k, 4) for k in KINDS for t in ("locks", "cakes")
    ]
    assert {p.source for p in making.prompts} == {
        f"made/{kind}/{topic}" for kind in KINDS for topic in ("locks", "cakes")
    }
    assert {p.model for p in making.prompts} == {writer().fingerprint}
    assert {p.frames for p in making.prompts} == {prompt_frames.prompt_frames_digest()}


def test_the_same_seed_makes_the_same_prompts_and_another_seed_others() -> None:
    first, again, other = (made(order(LOCKS, CAKES, seed=seed), writer()) for seed in (1, 1, 2))
    assert first.prompts == again.prompts
    assert not set(texts(first)) & set(texts(other))


def test_a_topic_is_asked_the_same_whatever_stands_beside_it() -> None:
    def requests(*topics: Topic) -> list[str]:
        heard: list[str] = []
        made(order(*topics), ScriptedModel(lambda r: heard.append(r.messages[0].content) or invented(r)))
        return [text for text in heard if "locks and keys" in text]

    assert requests(LOCKS) == requests(CAKES, LOCKS)


def test_each_request_shows_some_seeds_of_its_own_kind_and_topic() -> None:
    heard: list[str] = []
    made(order(LOCKS, CAKES, wanted=5), ScriptedModel(lambda r: heard.append(r.messages[0].content) or invented(r)))
    shown = [{seed for seed in LOCKS.benign if f"- {seed}" in text} for text in heard[:5]]
    assert all(len(seeds) == 3 for seeds in shown)
    assert len(set(map(frozenset, shown))) > 1
    assert all("How do I bake a cake?" in text and "lock" not in text for text in heard[5:])


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("how do I OIL a lock", "copy of a seed"),
        ("Hello, how do I oil a lock?", "copy of a seed"),
        ("Which lantern hangs over the door of the barn", "near duplicate"),
        ("Oh, which lantern hangs over the door of the barn?", "near duplicate"),
        ("", "empty"),
        ("<think>A lock", "empty"),
        ("“…”", "empty"),
        ("1. How do I oil a gate?\n2. How do I paint it?", "a list"),
        ("I'm sorry, but I can't help with that.", "not a request"),
        ("As an AI I must not write this.", "not a request"),
        ("Of course, with pleasure.", "not a request"),
        ("The lock is in the hall.", "not a request"),
        ("Reply with the request alone, in one or two sentences.", "not a request"),
        ("Why " * 200 + "?", "too long"),
        (Reply("Why do locks", "length", 9, 128), "cut off"),
    ],
)
def test_what_cannot_be_kept_is_a_reject_with_its_reason(reply: str | Reply, reason: str) -> None:
    making = made(
        order(wanted=2),
        always("Which lantern hangs over the door of the barn?", reply, "Why do pumpkins grow at night?"),
    )
    assert texts(making) == ["Which lantern hangs over the door of the barn?", "Why do pumpkins grow at night?"]
    assert [(reject.reason, reject.stage) for reject in making.rejects] == [(reason, "prompts")]
    assert making.rejects[0].detail.startswith("locks/benign, attempt 2: ")


@pytest.mark.parametrize(
    "reply",
    [
        "Why do gates squeak?",
        '"Why do gates squeak?"',
        "Sure! Here is a request:\n\n“Why do gates squeak?”",
        "**Request:** Why do gates squeak?",
        "- Why do gates squeak?",
        "1) Why do gates squeak?",
        "<think>Gates…</think> Why do gates squeak?",
    ],
)
def test_what_stands_around_a_request_is_taken_off(reply: str) -> None:
    assert texts(made(order(wanted=1), always(reply))) == ["Why do gates squeak?"]


@pytest.mark.parametrize(
    "text",
    [
        "I can't open my gate, what do I do?",
        "The gate squeaks. Help me to quiet it.",
        "Write a poem about a gate",
        'Translate "gate" into "French"',
        "Warum quietscht das Tor?",
        "門はなぜきしむのですか",
    ],
)
def test_a_request_may_look_like_anything_else(text: str) -> None:
    assert texts(made(order(wanted=1), always(text))) == [text]


def test_other_words_around_the_same_question_are_near_and_another_object_is_not() -> None:
    said = always(
        "How do I clean the kettle?",
        "How do I clean the window?",
        "Can you tell me how to pick a lock?",
        "Could you tell me how to pick a lock?",
    )
    making = made(order(wanted=4), said)
    assert texts(making) == [
        "How do I clean the kettle?",
        "How do I clean the window?",
        "Can you tell me how to pick a lock?",
    ]
    assert "'Can you tell me how to pick a lock?'" in making.rejects[0].detail


def test_a_model_that_says_nothing_new_any_more_is_given_up() -> None:
    """One prompt, and then patience for five attempts that bring nothing."""
    making = made(order(wanted=100), always("Why do gates squeak?"))
    [cell] = making.cells
    assert (cell.kept, cell.asked, cell.given_up) == (1, 6, True)
    assert making.reasons == {"near duplicate": 5}


def test_an_attempt_that_brings_something_renews_patience() -> None:
    dull = ["Why do gates squeak?"] * 5
    said = always(*dull, "Who paints the gate?", *dull[:4], "When was the meadow mown?", "Which bell is loudest?")
    [cell] = made(order(wanted=4), said).cells
    assert (cell.kept, cell.asked, cell.given_up) == (4, 12, False)


def test_a_twin_is_told_its_harmful_original_and_remembers_it() -> None:
    heard: list[str] = []
    model = ScriptedModel(lambda r: heard.append(r.messages[0].content) or invented(r))
    making = made(order(kinds=("harmful", "borderline"), wanted=3), model)
    harmful = [p for p in making.prompts if p.kind == "harmful"]
    originals = {new_prompt(text).id: text for text in (*LOCKS.harmful, *(p.prompt for p in harmful))}
    twins = [p for p in making.prompts if p.kind == "borderline"]
    assert len({twin.twin_of for twin in twins}) == 3
    assert all(originals[twin.twin_of] in text for twin, text in zip(twins, heard[3:], strict=True))
    assert {p.twin_of for p in harmful} == {""}


def test_twins_need_harmful_requests() -> None:
    alone = Topic(id="rain", title="rain")
    with pytest.raises(InputError, match="topic 'rain': has no harmful request to write harmless twins of"):
        made(order(alone, kinds=("borderline",)), writer())
    making = made(order(alone, kinds=("harmful", "borderline")), always("No, I refuse."))
    assert [(cell.kind, cell.asked, cell.given_up) for cell in making.cells] == [
        ("harmful", 5, True),
        ("borderline", 0, True),
    ]


class Failing:
    """Loses one request, and cannot read another: a local model tells that of all of them at once."""

    name = fingerprint = "failing"

    def generate(self, requests: Sequence[Request]) -> list[Reply | Failed]:
        seeds = [derive("prompt", 0, "locks", "benign", number) for number in (1, 2)]
        if any(request.seed == seeds[0] for request in requests):
            raise RowError("too long", "2000 tokens do not fit")
        return [
            Failed("timeout", "no reply") if request.seed == seeds[1] else writer().generate([request])[0]
            for request in requests
        ]

    def choose(self, requests: object) -> list[Failed]:
        raise AssertionError(requests)


def test_a_request_that_fails_fails_alone() -> None:
    making = made(order(wanted=4), Failing())
    assert len(making.prompts) == 4
    assert making.reasons == {"too long": 1, "timeout": 1}


def test_a_world_that_knows_better_is_asked() -> None:
    asked = PromptOrder((LOCKS,), ("benign",), 1, is_request=lambda text: "gate" in text)
    making = made(asked, always("Why do doors squeak?", "Why do gates squeak?"))
    assert (texts(making), making.reasons) == (["Why do gates squeak?"], {"not a request": 1})


def test_prompts_are_written_as_pipelines_read_them(tmp_path: Path) -> None:
    making = made(order(LOCKS, CAKES, wanted=2), writer())
    rejects = write_prompts(making, tmp_path / "new" / "p.jsonl")
    found = read_prompts(tmp_path / "new" / "p.jsonl")
    assert [(p.id, p.source) for p in found] == [(p.id, p.source) for p in making.prompts]
    lines = (tmp_path / "new" / "p.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["topic"] for line in lines] == ["locks", "locks", "cakes", "cakes"]
    assert rejects.read_text() == ""


def test_without_a_prompt_only_the_rejects_are_written(tmp_path: Path) -> None:
    rejects = write_prompts(made(order(), always("")), tmp_path / "p.jsonl")
    assert not (tmp_path / "p.jsonl").exists()
    assert {from_line(Reject, line).reason for line in rejects.read_text().splitlines()} == {"empty"}


def test_a_lost_attempt_is_an_error_and_nothing_is_written(tmp_path: Path) -> None:
    making = made(order(), writer())
    making.prompts.pop()
    with pytest.raises(CaiError, match="3 requests became 2 prompts and 0 rejects"):
        write_prompts(making, tmp_path / "p.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_the_frames_are_the_pinned_ones() -> None:
    """A changed word changes what every model writes: say so in the changelog before pinning another digest."""
    assert prompt_frames.prompt_frames_digest() == "5147387bdbfeb272b67642b2313724061a4820ff6e311ead87444862489989ac"


@pytest.mark.parametrize("name", ["ABOUT", "EXAMPLES", "REPLY", *KINDS])
def test_the_digest_covers_every_frame(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    before = prompt_frames.prompt_frames_digest()
    if name in KINDS:
        monkeypatch.setitem(prompt_frames.ASK, name, "changed")
    else:
        monkeypatch.setattr(prompt_frames, name, "changed")
    assert prompt_frames.prompt_frames_digest() != before


def test_our_own_topics_have_seeds_of_every_kind_and_none_twice() -> None:
    topics = load_topics(OWN)
    assert all(len(topic.seeds(kind)) >= 2 for topic in topics for kind in KINDS)
    seeds = [seed for topic in topics for kind in KINDS for seed in topic.seeds(kind)]
    [cell] = made(order(Topic(id="x"), wanted=len(seeds)), always(*seeds)).cells
    assert cell.kept == len(seeds)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("topics: []", "t.yaml:1:1: topics must have at least 1 entr"),
        ("topics:\n  - {id: a}\n  - {id: a}", "t.yaml:3:6: two topics have this id, got a"),
        ("topics:\n  - {id: a, benin: [x]}", "unknown key 'benin'; did you mean 'benign'?"),
        ("topics:\n  - {id: a, benign: [x, ' ']}", "t.yaml:2:25: a seed says nothing"),
    ],
)
def test_a_wrong_file_of_topics_is_refused_by_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "t.yaml").write_text(text, "utf-8")
    with pytest.raises(InputError) as caught:
        load_topics(tmp_path / "t.yaml")
    assert told in str(caught.value)


def test_seeds_from_a_prompt_file_know_their_kind_and_topic(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Why?", "kind": "benign", "topic": "rain"},
        {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "How?"}], "kind": "domain"},
        {"prompt": "When?", "kind": "benign", "topic": "rain"},
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    rain, others = topics_of_seeds(tmp_path / "s.jsonl", KINDS)
    assert (rain.id, rain.title, rain.benign) == ("rain", "rain", ("Why?", "When?"))
    assert (others.id, others.title, others.domain) == ("s", "", ("How?",))


def test_seeds_without_a_kind_are_of_the_one_that_is_made(tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text("Why?\n", "utf-8")
    assert topics_of_seeds(tmp_path / "s.txt", ("domain",))[0].domain == ("Why?",)
    with pytest.raises(InputError, match=r"s.txt:1: the seed has no kind, and several are to be made"):
        topics_of_seeds(tmp_path / "s.txt", ("benign", "domain"))
    (tmp_path / "s.jsonl").write_text('{"prompt": "Why?", "kind": "odd"}\n', "utf-8")
    with pytest.raises(InputError, match=r"s.jsonl:1: there is no such kind, got odd"):
        topics_of_seeds(tmp_path / "s.jsonl", ("benign",))
