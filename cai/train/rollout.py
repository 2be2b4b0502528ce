"""Answers sampled from the policy in training, and what they look like: their length, repetition and variety.

What an answer is worth is `rewards`', what is learnt from it `policy`'s.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cai.errors import CaiError
from cai.files import write_atomic
from cai.models.local.layout import TokenRow
from cai.models.local.view import LocalModel
from cai.models.protocol import Finish, Reply, Request, Sampling
from cai.records import Message, canonical
from cai.seeds import derive
from cai.train.config import PolicyConfig

GRAM = 4
"""Tokens in a row that count as a phrase."""


@dataclass(frozen=True, slots=True)
class PromptRow:
    id: str
    messages: tuple[Message, ...]
    prompt_ids: tuple[int, ...]
    """The messages as the workbench's `encode_prompt` has them."""
    tools: tuple[dict[str, object], ...] = ()


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer. Its tokens are the ids as they were drawn, the end of turn included."""

    prompt: PromptRow
    sample: int
    """Which of the answers to this prompt, counted from 0."""
    text: str
    tokens: TokenRow
    finish: Finish

    @property
    def id(self) -> str:
        return f"{self.prompt.id}/{self.sample}"

    @property
    def ended(self) -> bool:
        return self.finish == "stop"


RewardFn = Callable[[Sequence[Rollout]], Sequence[float]]
"""One number for each answer, higher is better."""


def sample(
    config: PolicyConfig, prompts: Sequence[PromptRow], view: LocalModel, name: tuple[object, ...], samples: int
) -> list[Rollout]:
    """So many answers to each prompt, those to one prompt side by side. What is drawn follows from the configuration's
    seed, the name of the occasion, the prompt's id and the sample's number."""
    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    asked = [(prompt, number) for prompt in prompts for number in range(samples)]
    requests = [
        Request(prompt.messages, sampling, derive(config.seed, *name, prompt.id, number), prompt.tools)
        for prompt, number in asked
    ]
    replies = view.generate(requests)
    return [_rollout(prompt, number, reply) for (prompt, number), reply in zip(asked, replies, strict=True)]


def _rollout(prompt: PromptRow, number: int, reply: Reply) -> Rollout:
    if reply.prompt_tokens != len(prompt.prompt_ids):
        raise CaiError(
            f"prompt {prompt.id}: the model read {reply.prompt_tokens} tokens where the row has "
            f"{len(prompt.prompt_ids)}; encode the row's messages with the workbench that the policy runs on"
        )
    return Rollout(prompt, number, reply.text, TokenRow(prompt.prompt_ids, reply.token_ids), reply.finish)


def looks(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """What answers give away whatever their rewards are."""
    answers = [rollout.tokens.completion_ids for rollout in rollouts]
    phrases = [_phrases(ids) for ids in answers]
    every = [phrase for own in phrases for phrase in own]
    return {
        "completions/mean_length": fmean(map(len, answers)),
        "completions/clipped_ratio": fmean(not rollout.ended for rollout in rollouts),
        "completions/repetition": fmean(1 - len(set(own)) / len(own) if own else 0.0 for own in phrases),
        "completions/distinct": len(set(every)) / len(every) if every else 1.0,
        "completions/shared": _spread(rollouts, phrases) / len(answers),
    }


def keep(path: Path, rollouts: Sequence[Rollout], named: Mapping[str, Sequence[float]]) -> None:
    """Answers and their rewards as JSON lines, for people to look at."""
    lines = []
    for i, rollout in enumerate(rollouts):
        said = {"prompt": rollout.prompt.id, "sample": rollout.sample, "text": rollout.text, "finish": rollout.finish}
        lines.append(canonical({**said, **{name: values[i] for name, values in named.items()}}))
    write_atomic(path, "".join(f"{line}\n" for line in lines))


def _spread(rollouts: Sequence[Rollout], phrases: Sequence[Sequence[tuple[int, ...]]]) -> int:
    """In how many answers the commonest phrase stands, of those that answers to different prompts have in common:
    what answers to one prompt share may be what it asks for."""
    said = [(phrase, rollout.prompt.id) for rollout, own in zip(rollouts, phrases, strict=True) for phrase in set(own)]
    widespread = Counter(phrase for phrase, _ in set(said))
    return max((n for phrase, n in Counter(p for p, _ in said).items() if widespread[phrase] > 1), default=0)


def _phrases(ids: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
