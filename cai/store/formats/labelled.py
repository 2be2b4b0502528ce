"""Test sets for judges: LLMBar's pairs, and the HHH evaluations in the three shapes they are found in.

They only come in: a set that measures judges is not a layout to write training data in.
"""

from collections.abc import Mapping

from cai.records import Message, Preference, Prompt
from cai.store.formats import messages as chats
from cai.store.formats.columns import preference_from
from cai.store.formats.hh import ask_hh, read_hh
from cai.store.formats.rows import BadRowError, Columns, answer_text, text_in, waiting_prompt


def is_llmbar(row: Columns) -> bool:
    return {"output_1", "output_2", "label"} <= row.keys()


def read_llmbar(row: Columns, source: str) -> Preference:
    label = row.get("label")
    # Tables hold it as text, or as a number with a point.
    first = {"1": 1, "2": 2}.get(str(label).removesuffix(".0"))
    if first is None:
        raise BadRowError("label", "must be 1 or 2", label)
    outputs = [answer_text(text_in(row, field), field) for field in ("output_1", "output_2")]
    return preference_from({}, ask_llmbar(row, source), outputs[first - 1], outputs[2 - first])


def ask_llmbar(row: Columns, source: str) -> Prompt:
    return waiting_prompt(_asked(row), "input", (), source)


def is_hhh(row: Columns) -> bool:
    return {"text_correct", "text_incorrect"} <= row.keys() or (
        "input" in row and bool(row.keys() & {"targets", "target_scores"})
    )


def read_hhh(row: Columns, source: str) -> Preference:
    """Two transcripts, or a prompt with scored answers: one right, the others wrong."""
    if "text_correct" in row:
        return read_hh(_transcripts(row), source)
    scores = _scores(row)
    right = [text for text, score in scores.items() if score]
    wrong = [text for text, score in scores.items() if not score]
    if len(right) != 1 or len(wrong) != 1:
        raise BadRowError("targets", "must be one right and one wrong answer", list(scores.values()), "not a pair")
    return preference_from({}, ask_hhh(row, source), *(answer_text(text, "targets") for text in (*right, *wrong)))


def _asked(row: Columns) -> tuple[Message, ...]:
    """One text: a transcript that may end in an empty turn of the assistant's, or all of it the user's."""
    text = text_in(row, "input")
    if not text.lstrip().startswith("Human:"):
        return (Message("user", text),)
    turns = chats.transcript_in(text, "input")
    return turns[:-1] if turns[-1].role == "assistant" and not turns[-1].content.strip() else turns


def ask_hhh(row: Columns, source: str) -> Prompt:
    return ask_hh(_transcripts(row), source) if "text_correct" in row else ask_llmbar(row, source)


def _transcripts(row: Columns) -> Columns:
    return {"chosen": row["text_correct"], "rejected": row.get("text_incorrect")}


def _scores(row: Columns) -> dict[str, bool]:
    scored = row.get("target_scores")
    if isinstance(scored, Mapping):
        return {str(text): bool(score) for text, score in scored.items()}
    targets = row.get("targets")
    choices, labels = (
        (targets.get(key) for key in ("choices", "labels")) if isinstance(targets, Mapping) else (None, None)
    )
    if not isinstance(choices, list) or not isinstance(labels, list) or len(choices) != len(labels):
        raise BadRowError("targets", "must hold as many choices as labels", targets)
    return {str(text): bool(label) for text, label in zip(choices, labels, strict=True)}
