"""What one trainer alone refuses: in one sentence, before a model is loaded, and with nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cai.errors import FolderInUse, InputError, Interrupted
from cai.files import folder_lock
from cai.pipeline.alone import Asked, order_of, train_alone
from cai.train.reward_facts import FACTS
from tests.pipeline.trainings import DATA, ROWS, SHORT, asked, trained

REFUSED: list[tuple[str, dict[str, object], str]] = [
    ("dpo", {"data": "prompts"}, "prompts.jsonl: holds prompts without answers, and dpo needs pairs .*`cai train ppo`"),
    ("reward", {"data": "unpaired"}, "holds single answers with a label, and reward needs pairs"),
    ("kto", {"data": "sft"}, "holds answers without a label, and kto needs answers with a label, or pairs"),
    ("sft", {"data": "prompts"}, "holds prompts without answers, and sft needs answers to learn"),
    ("sft", {"model": None}, "--model: is missing; name tiny"),
    ("sft", {"model": "absent"}, "absent: there is no such model folder"),
    ("sft", {"model": "org/absent"}, "org/absent: a hub model needs a pinned revision"),
    ("sft", {"overrides": ("epoch=3",)}, "--set: unknown key 'epoch'; did you mean 'epochs'"),
    ("sft", {"overrides": ("loss=dpo",)}, "--set: unknown key 'loss'"),
    ("sft", {"overrides": ("epochs=many",)}, "--set: epochs must be a whole number, got many"),
    ("sft", {"overrides": ("lora.rank=0",)}, "rank and alpha must be 1 or more"),
    ("sft", {"overrides": ("lora.size=4",)}, "--set: unknown key 'size'"),
    ("kto", {"overrides": ("batch_size=1",)}, "--set: batch_size must be 2 or more, got 1"),
    ("grpo", {"overrides": ("method=ppo",)}, "--set method: 'method' is what the command itself says"),
    ("grpo", {"overrides": ("samples=1",)}, "grpo compares answers to one prompt; set samples to 2 or more"),
    ("ppo", {"rewards": ()}, "--reward: is missing: ppo learns from rewards; name what `cai train reward` made"),
    ("sft", {"rewards": ("x",)}, "sft learns from its rows and has no reward"),
    ("ppo", {"rewards": ("nowhere",)}, "nowhere: there is no such adapter"),
    ("ppo", {"rewards": (f"{SHORT}r",)}, "reward_short.py has no function of this name, got shortr; it has: short"),
    ("ppo", {"rewards": (f"{SHORT}*much",)}, r"the weight behind the \* must be a number, got much"),
    ("ppo", {"rewards": ("absent.py:f",)}, "there is no such file, got absent.py"),
    ("ppo", {"rewards": (SHORT, SHORT)}, "two rewards have the same name, got short"),
    ("sft", {"start": "nowhere"}, "--from nowhere: there is no such adapter"),
    ("sft", {"max_tokens": 4}, r"of 20 rows none is left \(20 too long; the last one: sft.jsonl:20: .*is 4"),
    ("sft", {"layout": "nonsense"}, "--as: there is no such layout, got nonsense"),
    ("sft", {"template": "nonsense"}, "nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "more", "says"), REFUSED)
def test_bad_input_is_refused_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, more: dict[str, object], says: str
) -> None:
    unloaded(monkeypatch)
    if isinstance(more.get("data"), str):
        more = {**more, "data": DATA / f"{more['data']}.jsonl"}
    with pytest.raises(InputError, match=says):
        trained(Asked(method, **{"data": DATA / f"{ROWS[method]}.jsonl", "model": "tiny", "out": tmp_path / "out"}
                      | ({"rewards": (SHORT,)} if ROWS[method] == "prompts" else {}) | more))  # type: ignore[arg-type] # fmt: skip
    assert not (tmp_path / "out").exists()


def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on loading weights fails."""
    from cai.models.local import workbench

    def refuse(*_: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(workbench, "load", refuse)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "has no row that could be read"),
        ("not json\n{broken\n", "has no row that could be read"),
        ('{"a": 1}\n', "has no layout that is known, got a"),
        ('{"prompt": "Hi", "chosen": "a", "rejected": "a"}\n', r"of 1 rows none can be used \(1 identical answers; "),
        ('{"prompt": 3, "chosen": "a", "rejected": "b"}\n', "1 wrong field; the first one: pairs.jsonl:1: prompt: "),
        ('{"input": "Hi", "output_1": "a", "output_2": "b", "label": 1}\n', "is made to measure judges"),
    ],
)  # fmt: skip
def test_files_without_a_pair_are_refused_with_what_is_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, says: str
) -> None:
    unloaded(monkeypatch)
    data = tmp_path / "pairs.jsonl"
    data.write_text(content, "utf-8")
    with pytest.raises(InputError, match=says):
        trained(asked("dpo", tmp_path / "out", data=data))
    with pytest.raises(InputError, match=r"absent.jsonl: cannot be read"):
        trained(asked("dpo", tmp_path / "out", data=tmp_path / "absent.jsonl"))
    (tmp_path / "prompts.jsonl").write_text("", "utf-8")
    with pytest.raises(InputError, match=r"prompts.jsonl: is empty; ppo needs prompts"):
        trained(asked("ppo", tmp_path / "out", data=tmp_path / "prompts.jsonl"))


def test_too_few_rows_for_kto_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unloaded(monkeypatch)
    data = tmp_path / "few.jsonl"
    data.write_text("\n".join((DATA / "unpaired.jsonl").read_text("utf-8").splitlines()[:2]), "utf-8")
    with pytest.raises(InputError, match=r"few.jsonl: kto needs 2 rows or more to train on, got 1"):
        trained(asked("kto", tmp_path / "out", "holdout=0.5", data=data))
    with pytest.raises(InputError, match="kto needs 2 rows or more to measure on, got 1; set holdout higher, or to 0"):
        trained(asked("kto", tmp_path / "out", "holdout=0.05"))


def test_a_folder_of_another_training_is_refused_by_what_differs(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made("sft")
    unloaded(monkeypatch)
    with pytest.raises(InputError, match=r"belongs to another training \(epochs 1 there, 3 here\); name "):
        trained(asked("sft", made("sft"), "epochs=3"))
    with pytest.raises(InputError, match=r"belongs to another training \(method sft there, dpo here; data "):
        trained(asked("dpo", made("sft")))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        trained(asked("sft", tmp_path / "mine"))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_folder_in_which_somebody_works_is_refused(tmp_path: Path) -> None:
    order = order_of(asked("sft", tmp_path / "out"))
    with pytest.raises(Interrupted):
        list(train_alone(order, lambda: True))
    with folder_lock(tmp_path / "out"), pytest.raises(FolderInUse):
        trained(asked("sft", tmp_path / "out"))


def test_adapters_of_another_part_or_another_base_are_refused(
    made: Callable[[str], Path], random_model: Path, tmp_path: Path
) -> None:
    for start, more, says in (
        ("reward", {}, "is a reward model, which gives no answers, and dpo trains a model that does"),
        ("sft", {"model": str(random_model)}, "was trained on tiny, got --model"),
    ):
        with pytest.raises(InputError, match=says):
            order_of(asked("dpo", tmp_path / "out", start=str(made(start)), **more))
    with pytest.raises(InputError, match="has its shape already"):
        order_of(asked("dpo", tmp_path / "out", "lora.rank=4", start=str(made("sft"))))
    with pytest.raises(InputError, match="is no reward model: it gives answers, and no scores"):
        order_of(asked("ppo", tmp_path / "out", rewards=(str(made("sft")),)))


def test_a_reward_model_at_chance_is_refused_unless_that_is_allowed(
    made: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = shutil.copytree(made("reward"), tmp_path / "coin")
    facts = json.loads((copied / "adapter" / FACTS).read_text("utf-8"))
    (copied / "adapter" / FACTS).write_text(json.dumps({**facts, "accuracy": 0.5, "held_out": 40}), "utf-8")
    unloaded(monkeypatch)
    with pytest.raises(InputError, match=r"40 held-out pairs no better than a coin.*unproven_reward: allow"):
        order_of(asked("ppo", tmp_path / "out", rewards=(str(copied),)))
    allowed = order_of(asked("ppo", tmp_path / "out", "unproven_reward=allow", rewards=(str(copied),)))
    assert [source.adapter is not None for source in allowed.rewards] == [True]


def test_what_does_not_fit_in_memory_is_refused_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cai.pipeline import alone_memory

    unloaded(monkeypatch)
    monkeypatch.setattr(alone_memory, "free_memory", lambda _where: 1 << 20)
    with pytest.raises(InputError, match=r"pairs.jsonl: training needs .* on cpu .*--no-memory-check"):
        trained(asked("dpo", tmp_path / "out"))


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "reward"])
def test_so_is_a_policy_and_a_reward_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    from cai.pipeline import alone_memory

    unloaded(monkeypatch)
    monkeypatch.setattr(alone_memory, "free_memory", lambda _where: 1 << 20)
    with pytest.raises(InputError, match=r"(prompts|pairs).jsonl: (training|generating) needs .*--no-memory-check"):
        trained(asked(method, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("samples", [1, 3, 4])
@pytest.mark.parametrize("micro_tokens", [50, 200, 555, 4096])
@pytest.mark.parametrize("minibatches", [1, 3])
def test_a_policys_largest_pass_is_the_one_that_is_planned(samples: int, micro_tokens: int, minibatches: int) -> None:
    """Eight prompts of 40 tokens, answers of 60, against the trainer's own plan of passes."""
    from cai.models.local.layout import TokenRow, packed_length
    from cai.pipeline.alone_memory import policy_training
    from cai.train.config import PolicyConfig
    from cai.train.rounds import minibatch, passes, plan_updates

    config = PolicyConfig(
        method="ppo", batch_size=8, samples=samples, micro_tokens=micro_tokens, max_new_tokens=60,
        minibatches=minibatches,
    )  # fmt: skip
    rows = [TokenRow((i,) * 40, (100 + n,) * 60) for i in range(8) for n in range(samples)]
    ids = [str(i) for i in range(8)]
    made = [
        [rows[i] for i in own]
        for update in plan_updates(config, ids)
        for own in passes(config, rows, minibatch(config, update, ids))
    ]
    planned = policy_training(config, 40, continued=False, scorers=0)
    assert planned.rows == max(map(len, made))
    assert planned.tokens == pytest.approx(max(map(packed_length, made)), abs=40), "up to a family cut in two"
