"""The revise stage tells what it came to: figures in the manifest, sentences as notices, a warning while it works."""

import json
from pathlib import Path

from cai.feedback.yields import told
from cai.journal import read_lines
from cai.manifest import read_manifest
from cai.pipeline.chunks import Made, chunked, work_in_chunks
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
from tests.models.remote.fake_server import Asked, Served, running
from tests.pipeline.test_chunks import ROWS, desk, finish

ROOT = Path(__file__).parents[2]


def an_aligned_model(asked: Asked) -> str:
    """It refuses, finds nothing wrong with that, and leaves it as it is."""
    return "Nothing is wrong." if "Critique request" in asked.words else "I would rather not."


def test_a_model_that_has_nothing_to_revise_is_told_of_while_it_works(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    with running(Served(answer=an_aligned_model)) as server:
        path.write_text(
            f"name: p\nseed: 3\nconstitution: {ROOT}/constitutions/tiny.yaml\n"
            f"models: {{teacher: {{url: '{server.url}', model: small}}}}\n"
            "prompts: {train: {from: tiny/align, limit: 32}}\n"
            "stages: [{revise: {rounds: 1, answerer: teacher, critic: teacher, chunk: 8}}]\n",
            encoding="utf-8",
        )
        events = list(run_pipeline(load_pipeline(path), tmp_path / "run"))
    notices = [(n, str(e.data["text"])) for n, e in enumerate(events) if e.kind == "notice"]
    warned = [n for n, text in notices if text.startswith("16 of 16 answers came through")]
    assert len(warned) == 1, "once, after the second chunk"
    assert any(event.kind == "progress" and event.data["done"] == 24 for event in events[warned[0] :])
    folder = next((tmp_path / "run" / "stages").iterdir())
    manifest = read_manifest(folder)
    assert manifest
    figures = manifest.facts["figures"]
    assert figures == {"rows": 32, "rounds": 32, "nothing found": 32, "benign": 16}
    assert [text for _, text in notices if text.startswith("0 of")] == ["0 of 32 (0% to 11%) answers were changed"]


def test_a_report_shows_what_the_figures_come_to(finished: Path) -> None:
    report = json.loads((finished / "report.json").read_text("utf-8"))
    row = report["stages"][0]
    manifest = read_manifest(next((finished / "stages").glob("01-revise-*")))
    assert manifest
    assert row["told"] == list(told(manifest.facts["figures"]))  # type: ignore[arg-type]
    assert row["told"][0] in (finished / "report.html").read_text("utf-8")


def test_figures_of_a_resumed_stage_are_those_of_an_uninterrupted_one(tmp_path: Path) -> None:
    def work(rows: object) -> Made:
        return Made(len(rows), rows, figures={"seen": len(rows)})  # type: ignore[arg-type]

    def watch(figures: object, total: int) -> str:
        return f"{figures} of {total}"

    chunks = chunked("x", ROWS, 4, work)
    events, _ = finish(work_in_chunks("01-x", chunks[:2], tmp_path, desk(), watch=watch))
    assert [e.data["text"] for e in events if e.kind == "notice"] == ["{'seen': 4} of 8"], "once"
    events, ledger = finish(work_in_chunks("01-x", chunks, tmp_path, desk(), watch=watch))
    assert [e.data["text"] for e in events if e.kind == "notice"] == ["{'seen': 10} of 10"]
    assert ledger.facts == {"figures": {"seen": 10}}
    assert all("figures" in json.loads(line)["note"] for line in read_lines(tmp_path / "commits.jsonl"))
