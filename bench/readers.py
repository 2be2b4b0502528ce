"""What is exported, read by who it is for: `datasets` loads it, and TRL's own trainers prepare it.

    .venv-peers/bin/python bench/readers.py

Made-up pairs and answers with system messages, several turns and odd text are written in every form of the TRL layout
and as Parquet, loaded, and handed to the trainer that reads that form, on the embedded model. Every row must come out
of the preparation with tokens. Results go to `bench/results/readers.json`.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cai.models.local.finding import find_model
from cai.records import Lineage, Message, Preference, Verdict, new_prompt
from cai.store.data_card import data_card
from cai.store.data_stats import stats_of
from cai.store.dataset import DataSet
from cai.store.formats.exporting import ExportSettings, export
from cai.store.formats.rows import Answered, Sort
from cai.store.formats.trl import Form

RESULTS = Path(__file__).resolve().parent / "results" / "readers.json"
ROWS = 24
TEXTS = (
    "Plain words.",
    "Two\nlines, and a tab\t.",
    "Quotes \"and\" 'more' {braces} <tags>",
    "Ünïcödé, 日本, 🙂",
    "A" * 300,
)


def preferences() -> list[Preference]:
    lineage = Lineage("c" * 64, "f" * 64, 17, "answerer", "critic", "judge", "log-probabilities")
    rows = []
    for i in range(ROWS):
        messages = [Message("system", "Be brief.")] if i % 3 == 0 else []
        for turn in range(i % 2):
            messages += [Message("user", f"First {turn}?"), Message("assistant", TEXTS[(i + turn) % len(TEXTS)])]
        prompt = new_prompt((*messages, Message("user", f"Question {i}: {TEXTS[i % len(TEXTS)]}")))
        chosen, rejected = TEXTS[(i + 1) % len(TEXTS)] + f" {i}", TEXTS[(i + 2) % len(TEXTS)] + f" {i}!"
        rows.append(
            Preference(prompt, chosen, rejected, 0.8, (Verdict("p", 0.7, 0.9),), "preferred", lineage, "samples:0,1")
        )
    return rows


def answers(label: bool) -> list[Answered]:
    return [
        Answered(row.prompt, row.chosen, i % 2 == 0 if label else None, "made") for i, row in enumerate(preferences())
    ]


def checks() -> Iterator[tuple[str, int, int]]:
    """Name, rows that went in, rows that came out prepared."""
    from trl import DPOConfig, DPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer
    from trl.experimental.kto import KTOConfig, KTOTrainer

    quiet = {"report_to": "none", "use_cpu": True, "per_device_train_batch_size": 2}
    for form in ("explicit", "implicit"):
        for target in ("trl", "parquet"):
            data, out = exported(preferences(), "preferences", target, form)
            trainer = DPOTrainer(
                model(), args=DPOConfig(str(out / "dpo"), **quiet), train_dataset=data, processing_class=tokenizer()
            )
            yield f"{target} {form} in DPOTrainer", ROWS, prepared(trainer.train_dataset)
            reward = RewardTrainer(
                scorer(),
                args=RewardConfig(str(out / "reward"), **quiet),
                train_dataset=data,
                processing_class=tokenizer(),
            )
            yield f"{target} {form} in RewardTrainer", ROWS, prepared(reward.train_dataset)
    data, out = exported(answers(label=True), "unpaired", "trl", "unpaired")
    kto = KTOTrainer(
        model(), args=KTOConfig(str(out / "kto"), **quiet), train_dataset=data, processing_class=tokenizer()
    )
    yield "trl unpaired in KTOTrainer", ROWS, prepared(kto.train_dataset)
    data, out = exported(answers(label=False), "answers", "trl", "explicit")
    sft = SFTTrainer(
        model(), args=SFTConfig(str(out / "sft"), **quiet), train_dataset=data, processing_class=tokenizer()
    )
    yield "trl answers in SFTTrainer", ROWS, prepared(sft.train_dataset)


def exported(rows: Sequence[Any], sort: Sort, target: str, form: Form) -> tuple[Any, Path]:
    from datasets import load_dataset

    out = Path(tempfile.mkdtemp(prefix="cai-readers-"))
    data = DataSet(out, "made", sort, lambda: iter(rows))
    done = export(data, out / "data", ExportSettings(target, form=form))
    (out / "data" / "README.md").write_text(data_card(data, stats_of(rows), done), "utf-8")
    (split,) = load_dataset(str(out / "data")).values()
    return split, out


def prepared(dataset: Any) -> int:
    """Rows that hold tokens, under whatever names the trainer gives them."""
    ids = [name for name in dataset.column_names if name.endswith("_ids")]
    assert ids, dataset.column_names
    return sum(all(len(row[name]) > 0 for name in ids) for row in dataset)


def folder() -> str:
    return str(find_model("tiny", None).folder)


def model() -> object:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder())


def scorer() -> object:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder(), num_labels=1)


def tokenizer() -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder())


def main() -> None:
    results = []
    for name, given, got in checks():
        print(f"{name:40} {got} of {given}", flush=True)
        results.append(
            {"name": name, "ours": got, "peer": given, "ratio": got / given, "goal": 1.0, "met": got == given}
        )
    versions = {name: version(name) for name in ("trl", "datasets", "transformers")}
    found = {"bench": "readers", "versions": versions, "results": results}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
