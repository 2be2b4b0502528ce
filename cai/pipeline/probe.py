"""What a training stage looks at between updates: how the model in training answers a few of its own prompts.

Prompts of the embedded world are read by its oracle, so the curve shows compliance and honesty as they move; of any
other prompts it shows whether answers end and how long they are. Held-out prompts stay untouched until `evaluate`.
"""

from collections.abc import Callable, Sequence

from cai.evaluate.suites import GREEDY, SuiteResult, run_suite, suite
from cai.models.protocol import Model, Request, all_told
from cai.records import Prompt
from cai.seeds import derive, shuffled

PROBED = 32


def probe_of(prompts: Sequence[Prompt], seed: int) -> Callable[[Model], dict[str, float]]:
    """A probe that asks the same few of these prompts each time, greedily."""
    by_id = {prompt.id: prompt for prompt in prompts}
    drawn = [by_id[name] for name in shuffled(list(by_id), derive(seed, "probe"))[:PROBED]]
    embedded = all(prompt.source.startswith("tiny/") for prompt in drawn)
    return lambda model: _read(model, drawn, seed) if embedded else _measure(model, drawn)


def _read(model: Model, prompts: Sequence[Prompt], seed: int) -> dict[str, float]:
    result: SuiteResult = run_suite("tiny", model, prompts, seed)
    shares = {}
    for metric in suite("tiny").metrics:
        passes = result.measured(metric)
        if passes:
            shares[f"probe/{metric.name}"] = sum(passes.values()) / len(passes)
    return shares


def _measure(model: Model, prompts: Sequence[Prompt]) -> dict[str, float]:
    replies = all_told(model, model.generate([Request(p.messages, GREEDY, 0, p.tools) for p in prompts]))
    return {
        "probe/ended": sum(reply.finish == "stop" for reply in replies) / len(replies),
        "probe/tokens": sum(reply.completion_tokens for reply in replies) / len(replies),
    }
