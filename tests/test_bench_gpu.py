"""The GPU bench works: all of it runs here on a tiny model, and without a GPU it says what is missing."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "bench" / "gpu.py"
KEYS = {"name", "ours", "peer", "ratio", "goal", "met", "floor_share"}


def run(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_every_part_runs_on_a_tiny_model_on_a_cpu_and_judges_no_bar(tmp_path: Path) -> None:
    done = run("--size", "tiny", "--device", "cpu", "--out", str(tmp_path / "gpu.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((tmp_path / "gpu.json").read_text("utf-8"))
    assert list(kept["parts"]) == ["resident", "decode", "judge", "turns", "vllm", "dpo", "use", "ppo", "stages"]
    assert {name: part["failed"] for name, part in kept["parts"].items() if part["failed"]} == {}
    told = json.loads(done.stdout.splitlines()[-1])
    assert told == {"bench": "gpu", "results": kept["results"]}
    assert all(result.keys() == KEYS for result in told["results"])
    assert {result["met"] for result in told["results"]} == {None}
    names = " ".join(result["name"] for result in told["results"])
    for part in ("resident", "NF4", "replica", "judged pairs", "revise and judge", "DPO", "SFT", "PPO", "prefer"):
        assert part in names
    decoded = kept["parts"]["decode"]["facts"]
    assert [decoded[f"NF4 at {rows}"]["same tokens"] for rows in (1, 3)] == [1.0, 1.0], "what is compared is the same"
    assert all(decoded[f"{way} at {rows}"]["steps recorded"] for way in ("NF4", "replica") for rows in (1, 3))


def test_a_part_that_fails_says_why_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "llama-tiny").mkdir()
    (tmp_path / "llama-tiny" / "config.json").write_text("{}")
    out = tmp_path / "gpu.json"
    done = run(
        "--size", "tiny", "--device", "cpu", "--only", "resident", "vllm", "--work", str(tmp_path), "--out", str(out)
    )
    assert done.returncode == 1
    kept = json.loads(out.read_text("utf-8"))["parts"]
    assert kept["resident"]["failed"].startswith("MissingModel: ")
    assert kept["vllm"] | {"machine": {}} == {
        "results": [],
        "facts": {"skipped": "vllm is not installed"},
        "failed": None,
        "machine": {},
    }


def test_without_a_gpu_one_sentence_says_what_is_missing() -> None:
    for options, words in (((), "torch finds no CUDA device here"), (("--device", "cpu"), "too many for a CPU")):
        done = run(*options)
        assert (done.returncode, done.stdout) == (1, "")
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1
