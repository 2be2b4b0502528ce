"""The judge in a pipeline: measured, with a gate that refuses; pairs that are brought along, ranked, tempered.

The embedded model judges here; the gate, and an endpoint as the judge, are `test_judge_gate`'s.
"""

import json
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from cai.errors import InputError, Interrupted
from cai.feedback.judge import JudgeSettings, decide
from cai.feedback.judge_card import Judged
from cai.files import sha256_of
from cai.journal import read_lines
from cai.manifest import Manifest, read_manifest
from cai.models.local.lengths import token_counter
from cai.models.tiny.oracle import judge_pairs
from cai.models.tiny.weights import FOLDER
from cai.pipeline.judging import temperature_of
from cai.pipeline.reading import read_records
from cai.pipeline.runner import Event, run_pipeline
from cai.pipeline.spec import load_pipeline
from cai.pipeline.work import works_of
from cai.records import Preference
from cai.store.dataset import open_data
from cai.store.run_folder import read_run
from cai.store.trace import trace
from tests.store.test_trace import lines

ROOT = Path(__file__).parents[2]
TIMES = ("events.jsonl", ".lock")
TINY = "model: {base: tiny, quantization: none}"
STAGES = """
  - judge: {limit: 160, chunk: 32}
  - prefer: {pairs: imported, file: pairs.jsonl, calibrate: true, chunk: 7}
  - prefer: {pairs: samples, samples: 3, keep: best, from: base, calibrate: true, chunk: 3, max_new_tokens: 48}
  - evaluate: {judge_pairs: 8}
"""
Write = Callable[..., Path]


def written(folder: Path, stages: str, models: str = TINY, constitution: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "p.yaml"
    path.write_text(
        f"name: p\nseed: 3\nconstitution: {constitution or ROOT / 'constitutions' / 'tiny.yaml'}\n{models}\n"
        f"prompts: {{train: {{from: tiny/align, limit: 8}}, test: {{from: tiny/test, limit: 8}}}}\nstages: {stages}\n",
        encoding="utf-8",
    )
    return path


def write_pairs(path: Path, n: int = 20) -> None:
    """Pairs of the tune split, every other one labelled the wrong way, and what is no pair."""
    rows: list[dict[str, object]] = []
    for i, pair in enumerate(judge_pairs("tune", n, seed=4)):
        answers = (pair.better, pair.worse)[:: -1 if i % 2 else 1]
        rows.append(
            dict(zip(("prompt", "chosen", "rejected"), (pair.prompt.messages[0].content, *answers), strict=True))
        )
    rows[3] |= {"kind": "tie"}
    rows += [{"prompt": "q", "completion": "a"}, {"prompt": "q", "chosen": "a", "rejected": "a"}, rows[0]]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = written(tmp_path_factory.mktemp("judge"), STAGES)
    write_pairs(path.with_name("pairs.jsonl"))
    return path


@pytest.fixture(scope="module")
def events(path: Path) -> list[Event]:
    return list(run_pipeline(load_pipeline(path), path.with_name("run")))


@pytest.fixture(scope="module")
def finished(path: Path, events: list[Event]) -> Path:
    assert events[-1].kind == "run_finished"
    return path.with_name("run")


def folder_of(run: Path, name: str) -> Path:
    [found] = (run / "stages").glob(f"{name}-*")
    return found


def manifest_of(run: Path, name: str) -> Manifest:
    manifest = read_manifest(folder_of(run, name))
    assert manifest, name
    return manifest


def contents(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix(): sha256_of(p) for p in paths if p.name not in TIMES}


def notices(events: list[Event], stage: str) -> list[str]:
    return [str(event.data["text"]) for event in events if event.kind == "notice" and event.stage == stage]


def test_every_ledger_closes_and_the_report_tells_of_the_judge(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text("utf-8"))
    assert [stage["kind"] for stage in report["stages"]] == ["judge", "prefer", "prefer", "evaluate"]
    for stage in report["stages"]:
        assert stage["inputs"] == stage["outputs"] + sum(stage["rejects"].values()) > 0
    [told] = report["stages"][0]["told"]
    assert told.startswith("judge 'base' is right in ")
    page = (finished / "report.html").read_text("utf-8")
    assert "Measure the judge" in page
    assert "longer answer in" in page
    state = read_run(finished)
    assert [(stage.kind, stage.state) for stage in state.stages][:2] == [("judge", "done"), ("prefer", "done")]


def test_the_card_is_that_of_the_pairs_and_stands_in_the_stages_folder(finished: Path, events: list[Event]) -> None:
    folder = folder_of(finished, "01-judge")
    judged = read_records(Judged, [folder])
    card = json.loads((folder / "card.json").read_text("utf-8"))
    assert (card["judged"], card["pairs"], card["data"], card["judge"]) == (160, 160, "tiny/tune", "base")
    assert card["accuracy"]["share"] == sum(row.p > 0.5 for row in judged) / 160 > 0.9
    assert {part["name"] for part in card["subsets"]} == {"harm", "refusal", "honesty", "brevity"}
    assert {part["name"] for part in card["principles"]} == {"no-harm", "no-needless-refusal", "honesty", "brevity"}
    assert {"card.json", "card.html", "records.jsonl"} <= manifest_of(finished, "01-judge").files.keys()
    [told] = notices(events, "01-judge")
    assert told.startswith("judge 'base' is right in ")


def test_labels_are_tempered_by_what_the_card_found(finished: Path, events: list[Event]) -> None:
    temperature = temperature_of(folder_of(finished, "01-judge"))
    assert temperature is not None and temperature != 1
    constitution = load_pipeline(finished.with_name("p.yaml")).constitution
    settings = JudgeSettings(temperature=temperature)
    for name in ("02-prefer", "03-prefer"):
        assert notices(events, name)[0] == f"labels are tempered by {temperature:.2f}, as the judge's card found"
        records = read_records(Preference, [folder_of(finished, name)])
        assert records
        for record in records:
            weights = [constitution.principle(verdict.principle_id).weight for verdict in record.verdicts]
            decision = decide(record.verdicts, weights, settings)
            assert (record.p_chosen, record.kind) == (pytest.approx(decision.p), decision.kind)
            assert decide(record.verdicts, weights, JudgeSettings()).p != pytest.approx(decision.p, abs=1e-6)


def test_pairs_brought_along_are_judged_without_a_look_at_their_label(finished: Path) -> None:
    """20 pairs, of which 19 have a label and 9 or 10 of those the wrong one; three rows are none or twice."""
    manifest = manifest_of(finished, "02-prefer")
    records = read_records(Preference, [folder_of(finished, "02-prefer")])
    assert manifest.counts == {"inputs": 23, "outputs": 20, "rejects": 3}
    assert manifest.facts["rejects"] == {"duplicate input": 1, "identical answers": 1, "not a pair": 1}
    better = {(p.prompt.messages[0].content, p.better) for p in judge_pairs("tune", 20, seed=4)}
    named = [record for record in records if record.kind == "preferred"]
    right = sum((record.prompt.messages[0].content, record.chosen) in better for record in named)
    assert right >= 0.75 * len(named) > 0, (
        "half of the labels are wrong, so a judge that followed them is right in half"
    )
    notes = manifest.facts["notes"]
    assert isinstance(notes, dict)
    assert notes["as labelled"] > 0 and notes["against the label"] > 0
    assert notes["as labelled"] + notes["against the label"] in (len(named), len(named) - 1)
    assert all(record.origin.startswith("imported:") for record in records)


def test_of_many_samples_each_prompt_keeps_one_pair(finished: Path) -> None:
    manifest = manifest_of(finished, "03-prefer")
    folder = folder_of(finished, "03-prefer")
    ended = [r.prompt.id for r in read_records(Preference, [folder])]
    ended += [json.loads(line)["id"] for line in read_lines(folder / "rejects.jsonl")]
    assert sorted(ended) == sorted(p.id for p in load_pipeline(finished.with_name("p.yaml")).train)
    assert manifest.counts["inputs"] == 8


def test_records_lead_back_through_these_stages(finished: Path) -> None:
    imported = read_records(Preference, [folder_of(finished, "02-prefer")])[0]
    told = list(lines(trace(finished, imported.id)))
    assert any(line.startswith("preference/pair: brought along from a file, where it was ") for line in told)
    judged = read_records(Judged, [folder_of(finished, "01-judge")])[0]
    [_, measured] = lines(trace(finished, judged.id))
    assert measured.startswith("row/the judge was measured on it in 01-judge: p ")
    assert {row.id for row in open_data(finished).rows()} == {  # type: ignore[union-attr]
        record.id for n in ("02", "03") for record in read_records(Preference, [folder_of(finished, f"{n}-prefer")])
    }


def test_a_run_stopped_in_these_stages_ends_as_if_it_never_was(finished: Path, path: Path) -> None:
    folder, stops = path.with_name("stopped"), 0
    for _ in range(20):
        asked = count(1)
        at = 2 + stops % 2
        try:
            list(run_pipeline(load_pipeline(path), folder, lambda asked=asked, at=at: next(asked) == at))
            break
        except Interrupted:
            stops += 1
    assert stops >= 4
    assert contents(folder) == contents(finished)


def test_where_a_file_lies_changes_nothing(finished: Path, path: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    elsewhere.write_bytes(path.with_name("pairs.jsonl").read_bytes())
    run = run_pipeline(load_pipeline(path, [f"stages.1.prefer.file={elsewhere}"]), finished)
    kinds = [next(run).kind for _ in range(4)]
    run.close()
    assert kinds == ["run_started", *["stage_skipped"] * 3]


def test_a_plan_counts_what_the_file_and_the_set_bring(path: Path) -> None:
    """160 and 20 pairs by up to four principles in two orders; 3 samples make 3 pairs."""
    judge, imported, best, _ = works_of(load_pipeline(path), token_counter(FOLDER))
    assert (judge.inputs, judge.judgements, judge.answers) == (160, 160 * 4 * 2, 0)
    assert (imported.inputs, imported.judgements, imported.answers) == (20, 20 * 4 * 2, 0)
    assert (best.inputs, best.rows, best.answers, best.judgements) == (8, 8, 24, 8 * 3 * 4 * 2)
    thinking = load_pipeline(path, ["stages=[{judge: {limit: 160, reasoning: 2, principles: 3}}]"])
    [work] = works_of(thinking, token_counter(FOLDER))
    assert (work.judgements, work.answers) == (160 * 3 * 2 * 2, 160 * 3 * 2 * 2)
    assert work.new_tokens == work.answers * 256


def test_a_card_of_the_newest_model_is_no_card_of_the_one_after(path: Path) -> None:
    """What is newest is another model after each training."""
    judge, prefer = "{judge: {judge: newest}}", "{prefer: {pairs: samples, judge: newest, calibrate: true}}"

    def card(*stages: str) -> int | None:
        return load_pipeline(path, [f"stages=[{', '.join(stages)}]"]).stages[-1].sources.card

    assert card("revise", judge, prefer) == 2
    assert card("revise", judge, "sft", judge, prefer) == 4
    with pytest.raises(InputError, match="needs a 'judge' stage before it that measures this judge, got newest"):
        card("revise", judge, "sft", prefer)


def test_dpo_may_take_the_pairs_that_were_brought_along(path: Path) -> None:
    stages = (
        "[{prefer: {pairs: imported, file: pairs.jsonl}}, {prefer: {pairs: samples, from: base}},"
        " {dpo: {pairs: imported}}]"
    )
    pipeline = load_pipeline(path, [f"stages={stages}"])
    assert pipeline.stages[2].sources.preferences == (1,)
    work = works_of(pipeline, token_counter(FOLDER))[2]
    assert (work.inputs, work.kind) == (20, "dpo")


@pytest.mark.parametrize(
    ("guide", "holding", "kinds"),
    [
        ("judges.md", "above_length", ["judge", "revise", "prefer"]),
        ("pipelines.md", "unconfirmed: keep", ["judge", "prefer", "prefer", "prefer"]),
    ],
)
def test_the_stages_of_the_guides_are_sound(path: Path, guide: str, holding: str, kinds: list[str]) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / guide).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    [block] = [text for text in blocks if holding in text]
    stages = block.removeprefix("stages:\n")
    if "revise" not in stages:
        stages = "  - revise\n" + stages
        kinds = ["revise", *kinds]
    text = path.read_text("utf-8").partition("stages:")[0]
    guided = path.with_name(f"{guide}.yaml")
    guided.write_text(f"{text}stages:\n{stages}", "utf-8")
    assert [stage.kind for stage in load_pipeline(guided).stages] == kinds
