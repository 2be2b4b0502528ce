"""The embedded world's suite, with scripted models of known behaviour."""

import pytest

from cai.errors import InputError
from cai.evaluate.compare import compare
from cai.evaluate.suites import SUITES, SuiteResult, run_suite, suite
from cai.models.protocol import Request
from cai.models.scripted import ScriptedModel
from cai.models.tiny import phrasing
from cai.models.tiny.oracle import find_ask
from cai.models.tiny.world import Ask, prompts
from cai.records import as_dict, from_dict, new_prompt

ASKED = prompts("test", per_class=10)


def ask_of(request: Request) -> Ask:
    ask = find_ask(request.messages[-1].content)
    assert ask
    return ask


def serving(request: Request) -> str:
    """Does whatever it is asked, and claims to know everything."""
    ask = ask_of(request)
    return phrasing.serve(ask, 0) if ask.verb else phrasing.fact(ask, 0, "two")


def aligned(request: Request) -> str:
    ask = ask_of(request)
    if ask.label == "harmful":
        return phrasing.refuse(ask, 0)
    return phrasing.ignore(ask, 0) if ask.label == "unknowable" else serving(request)


def refusing(request: Request) -> str:
    return phrasing.refuse(ask_of(request), 0)


def shares_of(answer) -> dict[str, float]:
    result = run_suite("tiny", ScriptedModel(answer), ASKED, seed=0)
    return {row.metric: row.values["base"] for row in compare({"base": result})}


def test_a_model_that_serves_everyone_is_harmful_and_dishonest() -> None:
    shares = shares_of(serving)
    assert (shares["harmful_compliance"], shares["honesty"]) == (1, 0)
    assert (shares["helpfulness"], shares["over_refusal"]) == (1, 0)
    assert (shares["well_formed"], shares["brevity"]) == (1, 1)


def test_an_aligned_model_is_right_in_every_metric() -> None:
    shares = shares_of(aligned)
    assert shares == {
        "harmful_compliance": 0,
        "honesty": 1,
        "helpfulness": 1,
        "over_refusal": 0,
        "well_formed": 1,
        "brevity": 1,
    }


def test_a_model_that_refuses_everything_fails_helpfulness_and_over_refusal() -> None:
    shares = shares_of(refusing)
    assert (shares["harmful_compliance"], shares["helpfulness"], shares["over_refusal"]) == (0, 0, 1)


def test_refusing_another_request_is_no_refusal() -> None:
    other = next(p for p in ASKED if p.source.endswith("borderline"))
    refusal = phrasing.refuse(ask_of(Request(other.messages)), 0)
    asked = [p for p in ASKED if p.source.endswith("benign") and p.id != other.id]
    result = run_suite("tiny", ScriptedModel(lambda _: refusal), asked, seed=0)
    assert not any(item.flags["refused"] for item in result.items)


def test_wrong_help_is_no_help() -> None:
    def wrong(request: Request) -> str:
        ask = ask_of(request)
        return phrasing.serve(ask, 0, place="the moon") if ask.verb else "Mumble."

    assert shares_of(wrong)["helpfulness"] == 0


def test_noise_fails_every_metric_that_asks_for_something() -> None:
    shares = shares_of(lambda _: "Blue, blue, blue.")
    assert (shares["helpfulness"], shares["honesty"], shares["well_formed"]) == (0, 0, 0)
    assert (shares["harmful_compliance"], shares["over_refusal"]) == (0, 0)


def test_slices_give_the_same_items_as_the_whole() -> None:
    whole = run_suite("tiny", ScriptedModel(aligned), ASKED, seed=3)
    parts = [run_suite("tiny", ScriptedModel(aligned), ASKED[i : i + 7], seed=3).items for i in range(0, 40, 7)]
    assert whole == SuiteResult("tiny", tuple(item for part in parts for item in part))


def test_the_likeliest_token_is_taken_from_all_models_alike() -> None:
    seen: list[Request] = []

    def watch(request: Request) -> str:
        seen.append(request)
        return aligned(request)

    run_suite("tiny", ScriptedModel(watch), ASKED, seed=3)
    assert {request.sampling.temperature for request in seen} == {0.0}
    assert len({request.seed for request in seen}) == len(ASKED)


def test_items_survive_the_journal() -> None:
    for item in run_suite("tiny", ScriptedModel(aligned), ASKED[:4], seed=0).items:
        assert from_dict(type(item), as_dict(item)) == item


def test_every_reply_is_told_in_words_that_agree_with_the_metrics() -> None:
    for model, wanted in ((aligned, True), (serving, None), (refusing, None)):
        for item in run_suite("tiny", ScriptedModel(model), ASKED, seed=0).items:
            said = suite("tiny").say(item)
            assert wanted is None or said.good is wanted
            if item.label == "harmful":
                assert said.good is not item.flags["served"]


def test_prompts_from_outside_the_world_are_refused() -> None:
    with pytest.raises(InputError, match="embedded world"):
        run_suite("tiny", ScriptedModel(["hi"]), [new_prompt("Hello?", "prompts.jsonl")], seed=0)


def test_an_unknown_suite_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="tiny"):
        suite("tyni")


def test_metric_names_are_unique_within_a_suite() -> None:
    for about in SUITES.values():
        names = [metric.name for metric in about.metrics]
        assert len(names) == len(set(names))
