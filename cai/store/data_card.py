"""A data set's card: Markdown with the front matter that the hub reads. Figures come from the rows, never from memory.

Text from outside (a constitution, names of models) is fenced or escaped, so that it cannot write the card's own lines.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cai.store.data_stats import DataStats
from cai.store.dataset import DataSet
from cai.store.formats.exporting import Exported
from cai.store.judge_told import judge_told

JUDGE_SLOT = "The judge has not been measured on labelled data. `cai judge card` says how far it can be trusted."
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True, slots=True)
class CardText:
    """What no file tells: the licence, and the judge's card where there is one."""

    license: str = "other"
    judge_card: str = ""


def data_card(data: DataSet, stats: DataStats, exported: Exported | None = None, text: CardText | None = None) -> str:
    text = text or CardText()
    parts = [
        _front_matter(stats, exported, text),
        f"# {_inline(data.title)}\n",
        _summary(data, stats),
        _counts(data, stats, exported),
        _lineage(data, stats),
        _constitution(data),
        f"## The judge\n\n{text.judge_card.strip() or (judge_told(data.judge) if data.judge else JUDGE_SLOT)}\n",
        _limits(data, stats),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(stats: DataStats, exported: Exported | None, text: CardText) -> str:
    size = next((name for bound, name in _SIZES if stats.rows < bound), "n>1M")
    judged = stats.rows > stats.without_verdicts and bool(stats.constitutions)
    lines = [
        "---",
        f"license: {json.dumps(text.license)}",
        "task_categories:",
        "- text-generation",
    ]
    if judged:
        lines += ["annotations_creators:", "- machine-generated"]
    lines += ["size_categories:", f"- {size}", "tags:", *(["- synthetic", "- rlaif"] if judged else []), "- preference"]
    lines += ["- constitutional-ai"] if judged else []
    if exported and exported.splits:
        lines += ["configs:", "- config_name: default", "  data_files:"]
        for split in exported.splits:
            lines += [f"  - split: {split.name}", f"    path: {split.file}"]
    return "\n".join([*lines, "---", ""])


def _summary(data: DataSet, stats: DataStats) -> str:
    what = {"preferences": "pairs of answers", "answers": "answers to learn from", "unpaired": "labelled answers"}
    lines = [f"{stats.rows - stats.rejects.total():,} {what[data.sort]} to {len(stats.prompts):,} prompts."]
    if data.sort == "preferences":
        lines.append(
            "`judge_prob` is the probability that `chosen` is better, averaged over both orders of showing the two; "
            "a pair without verdicts carries somebody's plain label, which counts as 1."
        )
    return " ".join(lines) + "\n"


def _counts(data: DataSet, stats: DataStats, exported: Exported | None) -> str:
    lines = ["## Counts\n", "| what | rows |", "| --- | ---: |"]
    lines += [f"| {_cell(kind)} | {count:,} |" for kind, count in sorted(stats.kinds.items())]
    if exported:
        lines += [f"| split `{split.name}` | {split.rows:,} |" for split in exported.splits]
        lines += [f"| left out of the files: {_cell(why)} | {n:,} |" for why, n in sorted(exported.rejects.items())]
    lines += [f"| left out before: {_cell(why)} | {n:,} |" for why, n in sorted(data.rejects.items())]
    lines += ["", "| characters | mean | median | 95 % | longest |", "| --- | ---: | ---: | ---: | ---: |"]
    for name, spread in stats.lengths.items():
        mean, *rest = spread.plain.values()
        lines.append(f"| {name} | {mean} | {' | '.join(str(value) for value in rest)} |")
    return "\n".join(lines) + "\n"


def _lineage(data: DataSet, stats: DataStats) -> str:
    lines = ["## Where it comes from\n"]
    lines += [f"- prompts: {_inline(name)} ({count:,})" for name, count in stats.sources.most_common(10)]
    for role_and_model, count in stats.models.most_common(10):
        role, _, model = role_and_model.partition(" ")
        known = data.models.get(model)
        lines.append(f"- {role}: {f'{_inline(known)}, ' if known else ''}`{_code(model)}` ({count:,})")
    lines += [f"- constitution: `{_code(digest)}` ({count:,})" for digest, count in stats.constitutions.most_common(5)]
    lines += [f"- records: {_inline(name)}, SHA-256 `{_code(digest)}`" for name, digest in data.sources.items()]
    return "\n".join(lines) + "\n"


def _constitution(data: DataSet) -> str:
    facts = data.constitution
    principles = facts.get("principles")
    if not isinstance(principles, Mapping):
        return ""
    lines = ["## The constitution\n", f"`{_code(str(facts.get('id')))}` {_inline(str(facts.get('version')))}\n"]
    for name, texts in principles.items():
        told = [f"{key}: {' '.join(str(value).split())}" for key, value in texts.items() if value not in ("", None)]
        lines += [f"### {_inline(str(name))}\n", _fenced(told), ""]
    return "\n".join(lines)


def _limits(data: DataSet, stats: DataStats) -> str:
    lines = ["## Known limits\n"]
    if stats.constitutions:
        lines.append("- A model judged these pairs, not people. Its mistakes and its taste are in the labels.")
    if stats.without_verdicts:
        lines.append(f"- {stats.without_verdicts:,} pairs carry a label without a probability.")
    share = stats.chosen_longer
    if share is not None and abs(share - 0.5) > 0.1:
        lines.append(f"- The chosen answer is the longer one in {share:.0%} of pairs; training on this teaches length.")
    says_nothing = "they say nothing about which answer is better"
    unsure = {kind: stats.kinds[kind] for kind in ("tie", "contradiction") if stats.kinds[kind]}
    lines += [f"- {count:,} pairs are of the kind {kind}: {says_nothing}." for kind, count in unsure.items()]
    if data.sort != "preferences":
        lines.append("- Nobody compared these answers with others.")
    lines.append("- What filters do not look for is still in it: facts were not checked, and names were not removed.")
    return "\n".join(lines) + "\n"


def _inline(text: str) -> str:
    """Text on one line that starts no markup."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _cell(text: str) -> str:
    return _inline(text)


def _code(text: str) -> str:
    return " ".join(text.replace("`", "'").split())


def _fenced(lines: Sequence[str]) -> str:
    """A block whose fence is longer than any inside it."""
    longest = max((len(run) for line in lines for run in re.findall(r"`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence])
