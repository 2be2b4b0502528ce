"""Answer, critique, revise: the supervised half of Constitutional AI (arXiv 2212.08073, section 3) for one chunk.

All rows take each step together, one call to the model for a step. A round treats the prompt and the latest revision
as a fresh exchange, and its principle is drawn for the row and the round alone. Chunking and writing belong to the
stage; judging a revision against the answer it came from to `judge`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from cai.constitution.actions import read_actions
from cai.constitution.model import Constitution, draw_principle
from cai.errors import InputError, shorten
from cai.feedback.clean import Step, clean, folded, last_asked
from cai.feedback.outcome import Outcome, asking, first_of_each, reason_at
from cai.feedback.styles import (
    Asked,
    Style,
    ask_answer,
    ask_critique,
    ask_revision,
    critique_examples,
    frames_digest_of,
    request_of,
)
from cai.models.protocol import Failed, Model, Reply, Sampling
from cai.records import Lineage, Prompt, Reject, Revision, Round
from cai.seeds import derive

FREELY = Sampling(temperature=1.0, max_new_tokens=256)


@dataclass(frozen=True, slots=True)
class ReviseSettings:
    rounds: int = 2
    """Critiques and revisions for each answer; 0 only answers."""
    answer: Sampling = FREELY
    critique: Sampling = FREELY
    revision: Sampling = FREELY
    style: Style = "chat"
    """How every step is asked: as turns of a chat, or as the published protocol's plain text."""

    def sampling(self, step: Step) -> Sampling:
        return {"answer": self.answer, "critique": self.critique, "revision": self.revision}[step]


@dataclass(frozen=True, slots=True)
class _Chunk:
    prompts: Mapping[str, Prompt]
    settings: ReviseSettings
    seed: int
    outcome: Outcome[Revision]


def revise(
    prompts: Sequence[Prompt],
    constitution: Constitution,
    answerer: Model,
    critic: Model,
    settings: ReviseSettings,
    seed: int,
) -> Outcome[Revision]:
    """A `Revision` for each prompt, or a reject that names the step that failed."""
    drawn_from = _revising(constitution) if settings.rounds else constitution
    style, examples = settings.style, critique_examples(settings.style, constitution)
    outcome: Outcome[Revision] = Outcome()
    chunk = _Chunk({p.id: p for p in first_of_each(prompts, "revise", outcome.rejects)}, settings, seed, outcome)
    answers = _ask(chunk, answerer, "answer", 0, {p.id: ask_answer(style, p) for p in chunk.prompts.values()})
    latest = answers
    rounds: dict[str, tuple[Round, ...]] = dict.fromkeys(answers, ())
    for number in range(1, settings.rounds + 1):
        drawn = {row: draw_principle(drawn_from, seed, row, number) for row in latest}
        exchanges = {
            row: ask_critique(style, examples, chunk.prompts[row], text, drawn[row].critique)
            for row, text in latest.items()
        }
        critiques = _ask(chunk, critic, "critique", number, exchanges)
        requests = {row: ask_revision(exchanges[row], text, drawn[row].revision) for row, text in critiques.items()}
        revisions = _ask(chunk, critic, "revision", number, requests)
        for row, text in revisions.items():
            changed = folded(text) != folded(latest[row])
            rounds[row] += (Round(drawn[row].id, critiques[row], text, changed),)
        latest = revisions
    criticised_by = critic.fingerprint if settings.rounds else ""
    lineage = Lineage(constitution.behaviour_digest, frames_digest_of(style), seed, answerer.fingerprint, criticised_by)
    outcome.records.extend(
        Revision(chunk.prompts[row], answers[row], rounds[row], text, lineage) for row, text in latest.items()
    )
    return outcome


def _revising(constitution: Constitution) -> Constitution:
    """The constitution as the draw sees it: only principles that say how to criticise and how to revise."""
    usable = constitution.for_use("revise")
    if not usable:
        raise InputError(
            constitution.path,
            "no principle has both a critique and a revision text",
            remedy="add them to at least one principle",
        )
    return replace(constitution, principles=usable)


def _ask(chunk: _Chunk, model: Model, step: Step, number: int, asked: Mapping[str, Asked]) -> dict[str, str]:
    """What the model says to each row, cleaned. Rows it fails are rejected and missing from the result."""
    if not asked:
        return {}
    sampling = chunk.settings.sampling(step)
    where = f"round {number}, " if number else ""
    requests = [
        request_of(each, chunk.prompts[row], sampling, derive(step, chunk.seed, row, number))
        for row, each in asked.items()
    ]
    with asking(step, where):
        replies = model.generate(requests)
    texts: dict[str, str] = {}
    for row, reply in zip(asked, replies, strict=True):
        kept = _kept(chunk, row, step, reply, where)
        if isinstance(kept, Reject):
            chunk.outcome.rejects.append(kept)
        else:
            texts[row] = kept
    return texts


def _kept(chunk: _Chunk, row: str, step: Step, reply: Reply | Failed, where: str) -> str | Reject:
    """The text of a reply that serves, cleaned and with its tool calls in our form, or why it does not."""
    if isinstance(reply, Failed):
        return Reject(row, "revise", reason_at(step, reply.reason), f"{where}{step}: {reply.detail}")
    prompt = chunk.prompts[row]
    cleaned = clean(reply.text, step, last_asked(prompt.messages))
    chunk.outcome.notes.update(f"{step}: {what} removed" for what in cleaned.removed)
    said = f"{where}the model said {shorten(reply.text)}"
    if cleaned.refused:
        return Reject(row, "revise", f"{step} {cleaned.refused}", said)
    if reply.finish == "length" and step != "critique":
        detail = f"{where}no end after {_length(reply, chunk.settings.sampling(step))}: {shorten(cleaned.text)}"
        return Reject(row, "revise", f"cut-off {step}", detail)
    if not cleaned.text:
        return Reject(row, "revise", f"empty {step}", said)
    if step == "critique":
        if prompt.tools and not read_actions(cleaned.text, prompt.tools).words:
            return Reject(row, "revise", "tool call in place of a critique", said)
        # A critique is never trained on, and half of one still tells the reviser something.
        chunk.outcome.notes.update(["critique: cut off"] if reply.finish == "length" else [])
        return cleaned.text
    actions = read_actions(cleaned.text, prompt.tools)
    if actions.broken:
        return Reject(row, "revise", f"broken tool call in {step}", f"{where}{actions.broken}")
    chunk.outcome.notes.update([f"{step}: with tool calls"] if actions.calls else [])
    return actions.text


def _length(reply: Reply, sampling: Sampling) -> str:
    """How much was said; where that is less than was allowed, what else the model's context had to hold."""
    if reply.completion_tokens >= sampling.max_new_tokens:
        return f"{reply.completion_tokens} tokens"
    told = f"{reply.completion_tokens} of {sampling.max_new_tokens} tokens"
    return f"{told}, behind {reply.prompt_tokens}"
