"""Trainings alone on the example rows, each done in about a second."""

from pathlib import Path

from cai.pipeline.alone import Asked, order_of, train_alone
from cai.pipeline.events import Event

DATA = Path(__file__).parents[2] / "examples" / "data"
SHORT = f"{DATA.parent}/reward_short.py:short"
FEW = ("epochs=1", "batch_size=10")
ROWS = {"sft": "sft", "dpo": "pairs", "reward": "pairs", "kto": "unpaired"} | dict.fromkeys(
    ("ppo", "grpo", "rloo"), "prompts"
)
POLICY = ("samples=2", "max_new_tokens=24")


def never() -> bool:
    return False


def asked(method: str, out: Path, *overrides: str, **more: object) -> Asked:
    data = more.pop("data", DATA / f"{ROWS[method]}.jsonl")
    own: dict[str, object] = {"model": "tiny", "out": out}
    if method in ("ppo", "grpo", "rloo"):
        own, overrides = {**own, "rewards": (SHORT,)}, (*POLICY, *overrides)
    return Asked(method, data, overrides=(*FEW, *overrides), **{**own, **more})  # type: ignore[arg-type]


def trained(ask: Asked) -> list[Event]:
    return list(train_alone(order_of(ask), never))


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Everything that equal trainings write alike."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    apart = (".lock", "events.jsonl", "manifest.json", "training.json")
    return {name: path.read_bytes() for name, path in found.items() if path.name not in apart}
