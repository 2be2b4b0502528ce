"""Manners towards the hub, tried against one on this machine: what is fetched, kept, refused, and how fast."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.models.hub import FIRST, REPO, SECOND, Hub, running

WEIGHTS = bytes(range(256)) * 4096
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "README.md": b"# A model",
    "pytorch_model.bin": b"a pickle",
    "consolidated.safetensors": b"the same again",
    "onnx/config.json": b"{}",
}


@dataclass(frozen=True)
class Outcome:
    """What a fresh process found, or the words it was refused with."""

    found: dict[str, str]
    refused: str
    seconds: float


Find = Callable[..., Outcome]


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running(Hub(dict(FILES))) as found:
        yield found


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """find(hub, "main") -> what `find_model` says in a process of its own, whose cache outlives it."""
    code = (
        "import json, sys, time\n"
        "from cai.errors import InputError\n"
        "from cai.models.local.finding import find_config, find_model\n"
        "started = time.monotonic()\n"
        "answer = {'refused': '', 'found': {}}\n"
        "try:\n"
        "    if sys.argv[3] == 'config':\n"
        "        answer['found'] = {'folder': str(find_config(sys.argv[1], sys.argv[2]))}\n"
        "    else:\n"
        "        found = find_model(sys.argv[1], sys.argv[2])\n"
        "        answer['found'] = {'folder': str(found.folder), 'revision': found.revision, 'name': found.name}\n"
        "except InputError as error:\n"
        "    answer['refused'] = f'{type(error).__name__}: {error}'\n"
        "print(json.dumps({**answer, 'seconds': time.monotonic() - started}))\n"
    )

    def run(hub: Hub, revision: str = FIRST, what: str = "model", **environment: str) -> Outcome:
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        places = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1,localhost"}
        clean = {name: value for name, value in os.environ.items() if not name.upper().startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", code, REPO, revision, what],
            env={**clean, **quiet, **places, **environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=100,
        )
        return Outcome(**json.loads(done.stdout.splitlines()[-1]))

    return run


def test_a_branch_is_resolved_to_its_commit_and_only_what_is_needed_is_fetched(hub: Hub, find: Find) -> None:
    outcome = find(hub, "main")
    assert (outcome.found["revision"], outcome.found["name"]) == (FIRST, "model")
    fetched = {path.name for path in Path(outcome.found["folder"]).rglob("*") if path.is_file()}
    assert fetched == {"config.json", "tokenizer.json", "model.safetensors"}
    assert (Path(outcome.found["folder"]) / "model.safetensors").read_bytes() == WEIGHTS


def test_what_was_fetched_is_found_again_without_asking_anyone(hub: Hub, find: Find) -> None:
    """The repository holds more files than were fetched, which must not make the kept ones look incomplete."""
    first = find(hub)
    asked = len(hub.seen)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        again = find(hub, **environment)
        assert again.found == first.found
    assert len(hub.seen) == asked


def test_a_commit_stays_what_it_is_when_the_branch_moves_on(hub: Hub, find: Find) -> None:
    assert find(hub, "main").found["revision"] == FIRST
    hub.main = SECOND
    assert find(hub, FIRST).found["revision"] == FIRST
    assert find(hub, SECOND).found["revision"] == SECOND


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: Hub, find: Find) -> None:
    """Of 24 MiB the first 12 come; 10 of them were written, which is how much is written at once."""
    hub.files["model.safetensors"] = large = WEIGHTS * 24
    hub.cuts = {"model.safetensors": 2}
    outcome = find(hub)
    ranges = [each.range for each in hub.asked("model.safetensors") if each.method == "GET"]
    assert ranges == [None, *[f"bytes={10 << 20}-"] * 2]
    assert (Path(outcome.found["folder"]) / "model.safetensors").read_bytes() == large


def test_a_download_that_cannot_go_on_says_so_and_the_files_that_are_whole_are_kept(hub: Hub, find: Find) -> None:
    hub.cuts = {"model.safetensors": 100}
    refused = find(hub).refused
    assert "could not be fetched whole" in refused
    assert "give the same command again: files that are whole are kept" in refused
    hub.cuts = {}
    hub.seen.clear()
    outcome = find(hub)
    assert {each.path.rpartition("/")[2] for each in hub.asked("/resolve/")} == {"model.safetensors"}
    assert (Path(outcome.found["folder"]) / "model.safetensors").read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("mood", "says"),
    [
        ("gated", f"MissingModel: {REPO}: is gated; ask for access at huggingface.co/{REPO}, then run `hf auth login`"),
        ("missing", f"MissingModel: {REPO}: is not on the hub, or is private; check the id, or run `hf auth login`"),
        ("silent", f"MissingModel: {REPO}: is not in the cache, and the hub does not answer"),
    ],
)
def test_a_model_that_may_not_be_had_is_refused_within_five_seconds(hub: Hub, find: Find, mood: str, says: str) -> None:
    hub.mood = mood
    for what in ("model", "config"):
        started = time.monotonic()
        outcome = find(hub, what=what)
        assert outcome.refused.startswith(says), outcome
        assert outcome.seconds < 5, (what, time.monotonic() - started)
        assert len(hub.seen) < 10, "no storm of retries"
        hub.seen.clear()


def test_a_revision_that_is_not_there_is_named(hub: Hub, find: Find) -> None:
    assert "has no such revision, got 3333333" in find(hub, "3" * 40).refused


def test_offline_asks_nobody_and_takes_no_time(hub: Hub, find: Find) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        for what in ("model", "config"):
            outcome = find(hub, what=what, **{name: "1"})
            assert "the hub may not be asked (offline mode)" in outcome.refused
            assert outcome.seconds < 1
    assert hub.seen == []


def test_weights_that_are_only_a_pickle_are_refused_before_they_are_fetched(hub: Hub, find: Find) -> None:
    hub.files = {name: data for name, data in FILES.items() if not name.endswith(".safetensors")}
    assert "has its weights only as a pickle, which can run code, got pytorch_model.bin" in find(hub).refused
    assert hub.asked("resolve") == []


def test_a_token_is_not_carried_to_the_host_that_a_file_is_sent_from(find: Find) -> None:
    with running(Hub(dict(FILES), elsewhere="yes")) as hub:
        outcome = find(hub, HF_TOKEN="hf_secret")
        assert (Path(outcome.found["folder"]) / "model.safetensors").read_bytes() == WEIGHTS
        there = [each for each in hub.seen if each.host.startswith("localhost")]
        assert there, "the file came from the other host"
        assert {each.authorization for each in there} == {None}
        assert {each.authorization for each in hub.asked("/api/")} == {"Bearer hf_secret"}


def test_the_configuration_alone_is_fetched_for_a_plan(hub: Hub, find: Find) -> None:
    outcome = find(hub, "main", what="config")
    assert Path(outcome.found["folder"]).name == "config.json"
    assert {each.path.rpartition("/")[2] for each in hub.asked("/resolve/")} == {"config.json"}
