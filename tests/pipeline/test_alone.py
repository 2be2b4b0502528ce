"""One trainer alone: what its folder holds, how it goes on, and what becomes of rows it cannot use."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.errors import CaiError, InputError, Interrupted
from cai.journal import read_lines
from cai.manifest import verify_manifest
from cai.models.local.lora import read_config, scores
from cai.models.tiny.weights import FOLDER as TINY
from cai.pipeline.alone import order_of, train_alone
from cai.pipeline.alone_end import first_and_last
from cai.pipeline.events import Event
from cai.pipeline.final import find_final
from tests.cli.conftest import ENVIRONMENT
from tests.pipeline.trainings import DATA, ROWS, SHORT, asked, bytes_of, never, trained


@pytest.mark.parametrize("method", sorted(ROWS))
def test_every_method_trains_on_its_example_and_leaves_a_whole_folder(made: Callable[[str], Path], method: str) -> None:
    folder = made(method)
    manifest = verify_manifest(folder)
    assert (manifest.stage, manifest.counts) == (f"train-{method}", {"inputs": 20, "outputs": 20, "rejects": 0})
    assert {"training.json", "records.jsonl", "rejects.jsonl", "metrics.jsonl", "events.jsonl"} <= manifest.files.keys()
    records = [json.loads(line) for line in read_lines(folder / "records.jsonl")]
    assert [record["place"] for record in records] == [f"{ROWS[method]}.jsonl:{n}" for n in range(1, 21)]
    first, last = manifest.facts["metrics"]["loss"]  # type: ignore[index]
    lines = [json.loads(line) for line in read_lines(folder / "metrics.jsonl")]
    assert (first, last) == (lines[0]["loss"], lines[-1]["loss"])
    assert scores(read_config(folder / "adapter")) == (method == "reward")
    card = (folder / "adapter" / "README.md").read_text("utf-8")
    assert f"`{ROWS[method]}.jsonl`" in card
    assert "20 of 20" in card
    assert str(folder) not in card


def test_a_label_of_one_row_is_the_probability_that_it_is_wanted(made: Callable[[str], Path]) -> None:
    labels = [json.loads(line)["label"] for line in read_lines(DATA / "unpaired.jsonl")]
    assert [json.loads(line)["p"] for line in read_lines(made("kto") / "records.jsonl")] == [float(x) for x in labels]


def test_a_finished_training_is_told_and_left_as_it_is(made: Callable[[str], Path]) -> None:
    folder = made("sft")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    events = trained(asked("sft", folder))
    assert [event.kind for event in events] == ["run_started", "stage_skipped", "run_finished"]
    assert events[-1].data["counts"] == {"inputs": 20, "outputs": 20, "rejects": 0}
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize("method", ["sft", "kto", "reward", "ppo"])
def test_a_training_that_was_stopped_goes_on_to_the_same_bytes(
    made: Callable[[str], Path], tmp_path: Path, method: str
) -> None:
    seen: list[Event] = []
    order = order_of(asked(method, tmp_path / method))
    with pytest.raises(Interrupted, match="the same command goes on"):
        for event in train_alone(order, lambda: any(each.kind == "metrics" for each in seen)):
            seen.append(event)
    assert len([event for event in seen if event.kind == "metrics"]) == 1
    logged = [json.loads(line)["kind"] for line in read_lines(tmp_path / method / "events.jsonl")]
    assert logged[-1] == "run_interrupted"
    with pytest.raises(InputError, match="is not finished, so there is no model yet"):
        find_final(str(tmp_path / method))
    events = trained(asked(method, tmp_path / method))
    assert next(event.data for event in events if event.kind == "stage_started")["resumed"]
    # Checkpoints tell where a training was stopped; what it comes to does not.
    ours, theirs = bytes_of(tmp_path / method), bytes_of(made(method))
    assert {name for name in theirs if not name.startswith("checkpoints/")} <= ours.keys()
    assert [name for name in theirs if name in ours and "README" not in name and ours[name] != theirs[name]] == []


def test_rows_that_cannot_be_used_are_named_and_the_ledger_closes(tmp_path: Path) -> None:
    good = (DATA / "pairs.jsonl").read_text("utf-8").splitlines()
    long = json.dumps({"prompt": "Explain. " * 30, "chosen": "yes", "rejected": "no"})
    rows = [
        *good[:4],
        "not json",
        good[0],
        json.dumps({"prompt": "Hi", "chosen": "same", "rejected": "same"}),
        long,
        json.dumps({"prompt": "Hi", "chosen": "a", "rejected": "b", "judge_prob": 0.5, "kind": "tie"}),
        json.dumps({"prompt": "Hi", "completion": "a"}),
    ]
    data = tmp_path / "mixed.jsonl"
    data.write_text("\n".join(rows) + "\n", "utf-8")
    last = trained(asked("dpo", tmp_path / "out", data=data, max_tokens=60))[-1]
    assert last.data["counts"] == {"inputs": 10, "outputs": 4, "rejects": 6}
    rejects = [json.loads(line) for line in read_lines(tmp_path / "out" / "rejects.jsonl")]
    places = {reject["reason"]: reject["detail"].partition(": ")[0] for reject in rejects}
    assert places == {
        "not a row": "mixed.jsonl:5",
        "duplicate row": "mixed.jsonl:6",
        "identical answers": "mixed.jsonl:7",
        "too long": "mixed.jsonl:8",
        "tie": "mixed.jsonl:9",
        "not a pair": "mixed.jsonl:10",
    }
    assert last.data["rejects"] == dict.fromkeys(sorted(places), 1)


def test_a_row_longer_than_the_model_reads_is_a_reject_of_its_own(tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    whole = json.dumps(
        {"messages": [{"role": "user", "content": "kick " * 2000}, {"role": "assistant", "content": "a"}]}
    )
    data.write_text((DATA / "sft.jsonl").read_text("utf-8") + whole + "\n", "utf-8")
    assert trained(asked("sft", tmp_path / "out", data=data))[-1].data["rejects"] == {"too long": 1}
    order = asked("grpo", tmp_path / "more", "max_new_tokens=1020")
    with pytest.raises(InputError, match=r"20 too long; .* leave room for .*, and an answer may have 1020"):
        trained(order)


def test_a_pair_is_two_answers_to_kto_and_its_chosen_answer_one_to_sft(tmp_path: Path) -> None:
    pairs = DATA / "pairs.jsonl"
    told = trained(asked("kto", tmp_path / "kto", data=pairs))[-1].data
    assert told["counts"] == {"inputs": 40, "outputs": 40, "rejects": 0}
    records = [json.loads(line)["p"] for line in read_lines(tmp_path / "kto" / "records.jsonl")]
    assert records == [1.0, 0.0] * 20
    assert trained(asked("sft", tmp_path / "sft", data=pairs))[-1].data["counts"]["outputs"] == 20  # type: ignore[index]
    last = trained(asked("sft", tmp_path / "half", data=DATA / "unpaired.jsonl"))[-1]
    assert last.data["rejects"] == {"unwanted answer": 10}


def test_pairs_are_read_in_the_layouts_that_an_import_reads(tmp_path: Path, made: Callable[[str], Path]) -> None:
    from cai.store.dataset import open_data
    from cai.store.formats.exporting import ExportSettings, export

    ids = [json.loads(line)["id"] for line in read_lines(made("dpo") / "records.jsonl")]
    for target in ("parquet", "openai", "llama-factory"):
        done = export(open_data(DATA / "pairs.jsonl"), tmp_path / target, ExportSettings(target))
        [split] = done.splits
        trained(asked("dpo", tmp_path / f"{target}-out", data=done.folder / split.file))
        used = [json.loads(line)["id"] for line in read_lines(tmp_path / f"{target}-out" / "records.jsonl")]
        assert used == ids, target


def test_a_training_goes_on_from_another_one_whose_base_it_takes(made: Callable[[str], Path], tmp_path: Path) -> None:
    start = str(made("sft"))
    order = order_of(asked("dpo", tmp_path / "dpo", model=None, start=start))
    assert (order.spec.base, order.spec.quantization) == ("tiny", "nf4")
    events = list(train_alone(order, never))
    losses = [event.data["metrics"]["loss"] for event in events if event.kind == "metrics"]  # type: ignore[index]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4)
    assert "went on from `sft`" in (tmp_path / "dpo" / "adapter" / "README.md").read_text("utf-8")
    plain = shutil.copytree(made("sft") / "adapter", tmp_path / "plain")
    trained(asked("dpo", tmp_path / "again", start=str(plain)))
    weights = [(tmp_path / name / "adapter" / "adapter_model.safetensors").read_bytes() for name in ("dpo", "again")]
    assert weights[0] == weights[1]


def test_a_trained_folder_is_found_as_a_model_and_speaks(made: Callable[[str], Path]) -> None:
    from cai.cli.opening import open_named
    from cai.models.protocol import Request, Sampling
    from cai.records import Message

    found = find_final(str(made("sft")))
    assert found is not None
    assert (found.name, found.adapter) == ("sft", made("sft") / "adapter")
    view = open_named(str(made("sft")), None)
    request = Request((Message("user", "Please, explain how to decorate the broom."),), Sampling(temperature=0.0), 0)
    assert "broom" in view.generate([request])[0].text
    with pytest.raises(InputError, match="is a scorer, which gives no answers"):
        open_named(str(made("reward")), None)


def test_a_trained_folder_is_exported_with_a_card_that_speaks_of_no_constitution(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    from cai.pipeline.export import export_model

    found = find_final(str(made("sft")))
    assert found is not None
    export_model(found, "adapter", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "1. sft: 20 of 20 rows" in card
    assert "constitution" not in card


@pytest.mark.parametrize("method", ["sft", "reward"])
def test_the_card_loads_the_adapter_with_peft(made: Callable[[str], Path], tmp_path: Path, method: str) -> None:
    card = (made(method) / "adapter" / "README.md").read_text("utf-8")
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    program = code.replace('FOLDER = "."', f"FOLDER = {str(made(method) / 'adapter')!r}").replace(
        '"tiny"', repr(str(TINY))
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    if method == "reward":
        assert abs(float(done.stdout)) < 100
    else:
        assert done.stdout.strip()


def test_two_rewards_are_weighted_and_each_is_told(made: Callable[[str], Path], tmp_path: Path) -> None:
    rewards = (f"taste={made('reward')}*0.5", SHORT)
    last = trained(asked("rloo", tmp_path / "out", "unfinished=keep", rewards=rewards))[-1]
    metrics = last.data["metrics"]
    assert {"reward", "rewards/taste", "rewards/short"} <= metrics.keys()  # type: ignore[union-attr]
    first = {name: both[0] for name, both in metrics.items()}  # type: ignore[union-attr]
    assert first["reward"] == pytest.approx(0.5 * first["rewards/taste"] + first["rewards/short"], abs=1e-4)


def test_a_reward_function_may_take_messages_or_lists(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def one(messages, answer):\n    return float(messages[-1]['role'] == 'user')\n"
        "def many(prompts, answers):\n    return [1.0 for _ in zip(prompts, answers, strict=True)]\n"
        "def fails(prompt, answer):\n    return 1 / 0\n"
    )
    last = trained(asked("grpo", tmp_path / "out", "unfinished=keep", rewards=(f"{file}:one*2", f"{file}:many")))[-1]
    assert last.data["metrics"]["reward"] == [3.0, 3.0]  # type: ignore[index]
    with pytest.raises(CaiError, match=r"the reward function failed at .*mine.py:6 with ZeroDivisionError"):
        trained(asked("grpo", tmp_path / "fails", rewards=(f"{file}:fails",)))


def test_a_tokenizer_without_a_pad_token_is_no_error_since_nothing_is_padded(
    random_model: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(random_model, tmp_path / "unpadded")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (model / name).exists():
            plain = json.loads((model / name).read_text("utf-8"))
            plain.pop("pad_token", None)
            (model / name).write_text(json.dumps(plain), "utf-8")
    for method in ("sft", "dpo", "reward", "kto", "grpo"):
        order = asked(method, tmp_path / method, "lora.rank=2", model=str(model), quantization="none")
        assert trained(order)[-1].kind == "run_finished"


def test_of_each_metric_the_first_and_the_last_value_count() -> None:
    lines = [{"step": 1.0, "loss": 3.0}, {"step": 2.0, "loss": 2.0, "eval/loss": 4.0}, {"step": 3.0, "loss": 1.0}]
    assert first_and_last(lines, ("loss", "eval/loss", "absent")) == {"loss": [3.0, 1.0], "eval/loss": [4.0, 4.0]}
