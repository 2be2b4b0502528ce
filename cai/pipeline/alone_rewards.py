"""Where the rewards of a policy method come from, as a person names them: reward models, and functions in Python files.

    trained/reward-pairs    mine.py:short    kind=trained/reward-pairs*0.7    brief=mine.py:short*0.3

A function is `def reward(prompt: str, answer: str) -> float`, with `messages` (a list of role and content) in place of
`prompt`, or with `prompts` and `answers` as lists, which gives a list.
"""

import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cai.errors import InputError
from cai.files import sha256_of
from cai.models.local.spec import ModelSpec
from cai.pipeline.adapters import NamedAdapter, adapter_named, require_base
from cai.records import Message, digest
from cai.train.reward_facts import read_facts, require_better_than_chance

if TYPE_CHECKING:
    from cai.models.local.workbench import Workbench
    from cai.train.rollout import RewardFn

_NAMED = re.compile(r"(?:(?P<name>[A-Za-z_][\w-]*)=)?(?P<source>.+?)(?:\*(?P<weight>[^*/]*))?")
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")
_FORMS = (("prompt", "answer"), ("messages", "answer"), ("prompts", "answers"))


@dataclass(frozen=True, slots=True)
class RewardSource:
    name: str
    weight: float
    digest: str
    """Of the reward model, or of the function's name and its file."""
    adapter: NamedAdapter | None = None
    function: Callable[..., Any] | None = None
    form: tuple[str, ...] = ()
    """What the function takes."""


def reward_sources(texts: Sequence[str], spec: ModelSpec, *, unproven: bool = False) -> tuple[RewardSource, ...]:
    """Each source, found and looked at; functions are imported. Reward models must be better than chance, unless
    unproven ones are allowed."""
    found = tuple(_source(text, spec) for text in texts)
    names = [source.name for source in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError("--reward", "two rewards have the same name", name, f"call one another: other-{name}=…")
    for source in found:
        if source.adapter is not None and not unproven:
            require_better_than_chance(f"--reward {source.adapter.name}", source.adapter.folder)
    return found


@contextmanager
def opened(sources: Sequence[RewardSource], workbench: "Workbench") -> "Iterator[RewardFn]":
    """All of them as one reward, for as long as the reward models are resident."""
    from cai.train.rewards import Blend, Part, from_scorer

    parts, scorers = [], []
    try:
        for source in sources:
            if source.adapter is not None:
                scorers.append(workbench.scorer(source.adapter.folder))
                facts = read_facts(source.adapter.folder)
                reward = from_scorer(scorers[-1], facts.mean if facts else 0.0)
            else:
                reward = _of_function(source)
            parts.append(Part(source.name, reward, source.weight))
        yield parts[0].reward if len(parts) == 1 and parts[0].weight == 1 else Blend(tuple(parts))
    finally:
        for scorer in scorers:
            workbench.release(scorer)


def _source(text: str, spec: ModelSpec) -> RewardSource:
    option = f"--reward {text}"
    named = _NAMED.fullmatch(text)
    if named is None:
        raise InputError(option, "names no reward", None, "as in --reward trained/reward-pairs or mine.py:short*0.5")
    weight = _weight(option, named["weight"])
    if at := _FUNCTION.fullmatch(named["source"]):
        path = Path(at["file"]).expanduser()
        function = _function(option, path, at["function"])
        content = digest([sha256_of(path), at["function"]])
        form = _form(option, function)
        return RewardSource(named["name"] or at["function"], weight, content, function=function, form=form)
    adapter = adapter_named("--reward", named["source"])
    if not adapter.scores:
        remedy = "name what `cai train reward` made, or a Python function as FILE.py:function"
        raise InputError(option, "is no reward model: it gives answers, and no scores", None, remedy)
    require_base("--reward", adapter, spec)
    own = Path(adapter.name).resolve().name
    return RewardSource(named["name"] or own, weight, adapter.digest, adapter=adapter)


def _weight(option: str, text: str | None) -> float:
    try:
        weight = 1.0 if text is None else float(text)
    except ValueError:
        weight = math.nan
    if not math.isfinite(weight):
        raise InputError(option, "the weight behind the * must be a number", text, "as in mine.py:short*0.5")
    return weight


def _function(option: str, path: Path, name: str) -> Callable[..., Any]:
    if not path.is_file():
        raise InputError(option, "there is no such file", str(path), "check the path")
    module = _imported(option, path)
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(n for n, value in vars(module).items() if inspect.isfunction(value) and not n.startswith("_"))
        raise InputError(option, f"{path.name} has no function of this name", name, f"it has: {', '.join(known)}")
    return function  # type: ignore[no-any-return]


def _imported(option: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"reward_of_{path.stem}", path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, LookupError, OSError) as error:
        problem = f"{path.name} cannot be imported ({type(error).__name__}: {error})"
        raise InputError(option, problem, None, "mend the file; `python` says where it fails") from error
    return module


def _form(option: str, function: Callable[..., Any]) -> tuple[str, ...]:
    taken = tuple(inspect.signature(function).parameters)
    for form in _FORMS:
        if taken[:2] == form:
            return form
    forms = "; ".join(f"({', '.join(form)})" for form in _FORMS)
    raise InputError(
        option, "the function takes other arguments than a reward", ", ".join(taken), f"take one of {forms}"
    )


def _of_function(source: RewardSource) -> "RewardFn":
    from cai.train.rewards import from_batches, from_function

    function = source.function
    assert function is not None, source
    if source.form == ("prompts", "answers"):
        return from_batches(lambda prompts, answers: function([_last(each) for each in prompts], list(answers)))
    if source.form == ("messages", "answer"):
        return from_function(lambda messages, answer: function([_plain(each) for each in messages], answer))
    return from_function(lambda messages, answer: function(_last(messages), answer))


def _last(messages: Sequence[Message]) -> str:
    return messages[-1].content


def _plain(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}
