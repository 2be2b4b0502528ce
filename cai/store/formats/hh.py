"""hh-rlhf's rows: two whole transcripts that differ in their last answer."""

from collections.abc import Mapping

from cai.records import Message, Preference, Prompt
from cai.store.formats import messages as chats
from cai.store.formats.columns import Named, preference_columns, preference_from
from cai.store.formats.rows import (
    UNFIT,
    BadRowError,
    Columns,
    answer_text,
    last_answer,
    text_in,
    waiting_prompt,
    without_answer,
)


def is_hh(row: Columns) -> bool:
    return chats.is_transcript(row.get("chosen")) and chats.is_transcript(row.get("rejected"))


def read_hh(row: Columns, source: str) -> Preference:
    said = _transcripts(row)
    chosen, rejected = (answer_text(last_answer(turns, field), field) for field, turns in said.items())
    return preference_from(row, _prompt(said, source), chosen, rejected)


def ask_hh(row: Columns, source: str) -> Prompt:
    return _prompt(_transcripts(row), source)


def _transcripts(row: Columns) -> dict[str, tuple[Message, ...]]:
    return {field: chats.transcript_in(text_in(row, field), field) for field in ("chosen", "rejected")}


def _prompt(said: Mapping[str, tuple[Message, ...]], source: str) -> Prompt:
    """What both transcripts have before their last answers."""
    chosen, rejected = (without_answer(turns) for turns in said.values())
    if chosen != rejected:
        raise BadRowError("rejected", "differs from chosen before the last answer", None, "different prompts")
    return waiting_prompt(chosen, "chosen", (), source)


def write_hh(row: Preference, named: Named) -> list[Columns]:
    if row.prompt.tools:
        raise BadRowError("tools", "the layout has no place for tools", None, UNFIT)
    whole = {
        field: chats.as_transcript((*row.prompt.messages, Message("assistant", text)))
        for field, text in (("chosen", row.chosen), ("rejected", row.rejected))
    }
    return [{**whole, **preference_columns(row, named)}]
