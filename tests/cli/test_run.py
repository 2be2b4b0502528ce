"""`cai run`, `status` and `trace`: what they show of a run, and how a run is stopped and taken up again."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

from cai.pipeline.events import Event
from tests.cli.conftest import ENVIRONMENT, cai_in


def records(run: Path) -> dict[str, bytes]:
    names = ("records.jsonl", "rejects.jsonl", "metrics.jsonl", "adapter_model.safetensors")
    found = {p.relative_to(run).as_posix(): p.read_bytes() for p in run.rglob("*") if p.name in names}
    return {name: data for name, data in found.items() if "/checkpoints/" not in name}


def last_event(run: Path) -> str:
    lines = (run / "events.jsonl").read_text().splitlines() if (run / "events.jsonl").exists() else []
    return json.loads(lines[-1])["kind"] if lines else ""


def test_plain_lines_tell_each_stage_and_the_result(finished: Path) -> None:
    told = (finished / "told.txt").read_text()
    assert "\x1b" not in told
    lines = told.splitlines()
    assert lines[0] == "run small in runs/small"
    for title in ("01 critique and revise", "03 fine-tune on revisions", "05 train on preferences", "06 evaluate"):
        assert any(line.startswith(f"{title}: done in") for line in lines), title
    assert "Harmful compliance" in told
    assert lines[-1] == "Report: runs/small/report.html"
    assert (finished / "runs" / "small" / "report.html").exists()


def test_the_same_command_again_skips_what_is_done_and_tells_it_as_json(finished: Path) -> None:
    before = records(finished / "runs" / "small")
    lines = cai_in(finished)("run", "small.yaml", "--json").stdout.splitlines()
    events = [json.loads(line) for line in lines]
    assert all(set(event) == {"kind", "stage", "data"} for event in events)
    kinds = [event["kind"] for event in events]
    assert kinds == ["run_started", *["stage_skipped"] * 6, "run_finished"]
    assert records(finished / "runs" / "small") == before


def test_a_terminal_gets_bars_and_colours(finished: Path) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "cai.cli.main", "run", "small.yaml"]
    environment = {**ENVIRONMENT, "TERM": "xterm-256color"}
    with subprocess.Popen(command, cwd=finished, stdout=follower, stderr=follower, env=environment) as process:
        os.close(follower)
        shown = b""
        while chunk := _read(leader):
            shown += chunk
    os.close(leader)
    assert process.returncode == 0
    text = shown.decode()
    assert "\x1b[1m" in text
    assert "✓ 06 evaluate" in text
    assert "done already" in text


def test_ctrl_c_stops_in_good_order_and_the_same_command_goes_on(finished: Path, project: Path) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        run = project / "runs" / "small"
        command = [sys.executable, "-m", "cai.cli.main", "run", "small.yaml"]
        with subprocess.Popen(
            command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as process:
            end = time.monotonic() + 200
            seen = len(list(run.glob("stages/*/manifest.json")))
            while len(list(run.glob("stages/*/manifest.json"))) <= seen and time.monotonic() < end:
                time.sleep(0.02)
            process.send_signal(number)
            _, complaint = process.communicate(timeout=200)
        assert process.returncode == 130, complaint
        assert "stopping after this step" in complaint
        assert "the same command goes on" in complaint
        assert "Traceback" not in complaint
        assert last_event(run) == "run_interrupted"
    shown = cai_in(project)("status", "runs/small").stdout
    assert shown.startswith("‖ interrupted  small")
    cai_in(project)("run", "small.yaml")
    assert records(run) == records(finished / "runs" / "small")


def test_status_tells_every_stage(finished: Path) -> None:
    shown = cai_in(finished)("status", "runs/small").stdout
    assert shown.startswith("✓ done  small")
    assert shown.count("✓ done") == 7
    told = json.loads(cai_in(finished)("status", "runs/small", "--json").stdout)
    assert (told["name"], told["state"], told["report"]) == ("small", "done", "runs/small/report.html")
    assert [stage["kind"] for stage in told["stages"]] == ["revise", "prefer", "sft", "prefer", "dpo", "evaluate"]
    for stage in told["stages"]:
        assert stage["counts"]["inputs"] == stage["counts"]["outputs"] + stage["counts"]["rejects"]


def test_trace_leads_from_a_preference_back_to_its_prompt_principle_models_and_seed(finished: Path) -> None:
    from cai.records import Preference, from_line

    [path] = (finished / "runs" / "small" / "stages").glob("02-prefer-*/records.jsonl")
    preference = from_line(Preference, path.read_text().splitlines()[0])
    cai = cai_in(finished)
    shown = cai("trace", "runs/small", preference.id[:10]).stdout
    for part in (preference.id, preference.prompt.messages[-1].content, "seed", "judge", preference.chosen[:20]):
        assert part in " ".join(shown.split()), part
    tree = json.loads(cai("trace", "runs/small", preference.id, "--json").stdout)
    assert (tree["label"], tree["value"]) == ("preference", preference.id)
    assert {"prompt", "chosen", "rejected", "judged", "seed"} <= {child["label"] for child in tree["children"]}
    assert "no record has this id" in cai("trace", "runs/small", "0" * 16, code=2).stderr


def test_progress_of_a_resumed_stage_counts_only_new_work_as_speed() -> None:
    from cai.cli.progress import Pace

    pace = Pace(resumed=True, started=time.monotonic() - 10)
    pace.move({"done": 90, "total": 100})
    assert pace.left == pace.rate == ""
    pace.move({"done": 95, "total": 100})
    assert pace.rate == "30.0/min"
    assert pace.left == "10 s left"


def test_a_line_tells_the_numbers_of_training_and_the_ledger() -> None:
    from cai.cli.progress import ledger, numbers, title

    data = Event("metrics", "05-dpo", {"metrics": {"loss": 0.69315, "rewards/accuracies": 0.5, "lr": 1}}).data
    assert numbers(data) == "loss 0.693 accuracy 0.500"
    counts = {"counts": {"inputs": 8, "outputs": 6, "rejects": 2}, "rejects": {"null edit": 2}, "notes": {"ties": 1}}
    assert ledger(counts) == "6 of 8, rejected: 2 null edit (1 ties)"
    assert title("05-dpo") == "05 train on preferences"


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux says so when the other end is closed.
        return b""


def test_a_limit_and_a_pilot_take_the_first_prompts_and_the_pilot_says_what_all_will_take(project: Path) -> None:
    cai = cai_in(project)
    stages = "stages=[{revise: {rounds: 1, max_new_tokens: 48}}, {prefer: {unconfirmed: keep}}]"
    shown = cai("run", "small.yaml", "--set", stages, "--limit", "16", "--pilot", "8").stdout
    assert "Pilot on 8 of 16 prompts." in shown
    assert "01-revise" in shown
    assert "The same command without --pilot goes on; nothing of the pilot is asked again." in shown
    again = cai("run", "small.yaml", "--set", stages, "--limit", "16").stdout
    assert "calls of the model were made before" in " ".join(again.split())
    assert "16 of 16" in again
    refused = cai("run", "small.yaml", "--pilot", "3", code=2).stderr
    assert "needs at least 8 prompts" in " ".join(refused.split())
