"""Pairs of answers to one prompt that wait for a judge: an answer and its revision, or answers sampled anew."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from cai.errors import InputError, shorten
from cai.feedback.clean import clean, folded
from cai.feedback.outcome import Outcome, asking, first_of_each, reason_at
from cai.models.protocol import Failed, Model, Reply, Request, Sampling
from cai.records import Preference, Prompt, Reject, Revision, content_id
from cai.seeds import derive


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """Two answers to one prompt. Its id does not depend on which of them is first."""

    prompt: Prompt
    first: str
    second: str
    origin: str
    """Where the answers come from: "revisions:<revision id>", "samples:<i>,<j>" or "imported:<pair id>"."""
    answerer: str = ""
    critic: str = ""

    @property
    def id(self) -> str:
        return content_id("pair", self.prompt.id, *sorted((self.first, self.second)))


def from_revisions(revisions: Sequence[Revision]) -> Outcome[CandidatePair]:
    """Each first answer against its last revision; where that changed nothing there is no pair."""
    outcome: Outcome[CandidatePair] = Outcome()
    for revision in first_of_each(revisions, "prefer", outcome.rejects):
        if folded(revision.initial) == folded(revision.final):
            detail = f"{len(revision.rounds)} rounds left the answer as it was"
            outcome.rejects.append(Reject(revision.id, "prefer", "null edit", detail))
            continue
        made_by = (revision.lineage.answerer, revision.lineage.critic)
        origin = f"revisions:{revision.id}"
        outcome.records.append(CandidatePair(revision.prompt, revision.initial, revision.final, origin, *made_by))
    return outcome


def from_preferences(labelled: Sequence[Preference]) -> Outcome[CandidatePair]:
    """Pairs that somebody labelled, to be judged anew without a look at the label."""
    outcome: Outcome[CandidatePair] = Outcome()
    for row in first_of_each(labelled, "prefer", outcome.rejects):
        made_by = (row.lineage.answerer, row.lineage.critic)
        origin = f"imported:{row.id}"
        outcome.records.append(CandidatePair(row.prompt, row.chosen, row.rejected, origin, *made_by))
    return outcome


def from_samples(
    prompts: Sequence[Prompt], policy: Model, n: int, sampling: Sampling, seed: int, limit: int = 6
) -> Outcome[CandidatePair]:
    """Pairs of distinct answers among `n` samples for each prompt: one pair for n = 2, else all of them up to `limit`.

    Neighbours (0 and 1, 1 and 2, ...) come first, so a limit leaves out no sample before it leaves out second meetings.
    Answers that never ended are no candidates; a prompt left without a pair is a reject under the prompt's id.
    """
    if n < 2:
        raise InputError("samples", "a pair needs at least 2 samples of each prompt", n, "set it to 2 or more")
    outcome: Outcome[CandidatePair] = Outcome()
    rows = first_of_each(prompts, "prefer", outcome.rejects)
    requests = [Request(p.messages, sampling, derive("sample", seed, p.id, i), p.tools) for p in rows for i in range(n)]
    with asking("answer"):
        replies = policy.generate(requests) if requests else []
    assert len(replies) == len(requests), (policy.name, len(replies), len(requests))
    for number, prompt in enumerate(rows):
        own = replies[number * n : (number + 1) * n]
        failed = [reply for reply in own if isinstance(reply, Failed)]
        outcome.notes.update(["answer: failed"] * len(failed))
        answers = _usable(own, outcome)
        distinct = _first_occurrences(answers)
        meetings = sorted(combinations(distinct, 2), key=lambda pair: distinct.index(pair[1]) - distinct.index(pair[0]))
        for i, j in meetings[:limit]:
            origin = f"samples:{i},{j}"
            outcome.records.append(CandidatePair(prompt, answers[i], answers[j], origin, policy.fingerprint))
        if not meetings:
            outcome.rejects.append(_no_pair(prompt, answers, n, failed))
    return outcome


def _usable(replies: Sequence[Reply | Failed], outcome: Outcome[CandidatePair]) -> dict[int, str]:
    """The finished answers by their number, cleaned. An empty one stays: the policy gave it, and it will lose."""
    answers: dict[int, str] = {}
    for number, reply in enumerate(replies):
        if isinstance(reply, Failed):
            continue
        if reply.finish == "length":
            outcome.notes["answer: cut off"] += 1
            continue
        cleaned = clean(reply.text, "answer")
        outcome.notes.update(f"answer: {what} removed" for what in cleaned.removed)
        answers[number] = cleaned.text
    return answers


def _first_occurrences(answers: dict[int, str]) -> list[int]:
    first: dict[str, int] = {}
    for number, text in answers.items():
        first.setdefault(folded(text), number)
    return list(first.values())


def _no_pair(prompt: Prompt, answers: dict[int, str], n: int, failed: Sequence[Failed]) -> Reject:
    if failed:
        reason = reason_at("answer", failed[0].reason)
        return Reject(prompt.id, "prefer", reason, f"{len(failed)} of {n} samples: {failed[0].detail}")
    if len(answers) < 2:
        detail = f"{n - len(answers)} of {n} samples did not end within the token limit"
        return Reject(prompt.id, "prefer", "cut-off answer", detail)
    detail = f"all {len(answers)} samples say {shorten(next(iter(answers.values())))}"
    return Reject(prompt.id, "prefer", "identical answers", detail)
