"""What an endpoint can do: asked once, when it is first needed, and kept in the journal. Nothing is assumed.

Endpoints differ in what they take, and some take a setting without heeding it. So a setting that changes the reply is
probed by its effect: log-probabilities must come back, and a schema must have been obeyed against the prompt.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Literal

from cai.errors import EndpointError, InputError, MissingModel
from cai.models.remote.budget import Tokens
from cai.models.remote.calls import HELLO, Calls
from cai.models.remote.faults import Fault
from cai.models.remote.ledger import Ledger
from cai.models.remote.spec import RemoteSpec
from cai.models.remote.wire import Answer
from cai.records import digest

ABILITIES = ("context", "limit", "logprobs", "schema", "seed", "tools", "text", "text logprobs", "text seed")
LimitField = Literal["max_tokens", "max_completion_tokens"]
MOST_LOGPROBS, FEWER_LOGPROBS = 20, 5
_REFUSALS = ("request refused", "server error", "not found")
_SHORT_TEXT = {"prompt": HELLO, "max_tokens": 1}
_TOOL = {
    "type": "function",
    "function": {"name": "tell_time", "description": "Tells the time.", "parameters": {"type": "object"}},
}


class Abilities:
    """What was found out about one endpoint; each ability costs a call or two of a few tokens, once."""

    def __init__(self, calls: Calls, ledger: Ledger) -> None:
        self._calls = calls
        self._ledger = ledger
        self._turn = asyncio.Lock()
        self._known: dict[str, object] = {}
        self._used = Tokens()
        """By the probe that is under way."""

    async def limit_field(self) -> LimitField:
        """The name under which it takes the longest reply."""
        await self.context()  # First of all: a model that the endpoint does not list is refused with those it does.
        found = await self._learn("limit", self._probe_limit)
        name: LimitField = "max_tokens" if found == "max_tokens" else "max_completion_tokens"
        self._calls.trial = {"messages": [{"role": "user", "content": HELLO}], name: 1}
        return name

    async def context(self) -> int | None:
        """The longest conversation, where the endpoint's list of models tells it."""
        found = await self._learn("context", self._look_up_model)
        return found if isinstance(found, int) else None

    async def takes_seed(self) -> bool:
        limit = await self.limit_field()
        return bool(await self._learn("seed", lambda: self._accepts({limit: 1, "seed": 1})))

    async def takes_tools(self) -> bool:
        limit = await self.limit_field()
        return bool(await self._learn("tools", lambda: self._accepts({limit: 1, "tools": [_TOOL]})))

    async def top_logprobs(self) -> int:
        """How many log-probabilities it tells of each position; 0 where it tells none."""
        limit = await self.limit_field()
        found = await self._learn("logprobs", lambda: self._probe_logprobs(limit))
        assert isinstance(found, int), found
        return found

    async def keeps_schema(self) -> bool:
        """Whether a reply obeys a JSON schema even where the prompt asks for something else."""
        limit = await self.limit_field()
        return bool(await self._learn("schema", lambda: self._probe_schema(limit)))

    async def require_text(self) -> None:
        """Refuses an endpoint that only chats, by asking it to go on with a text."""
        await self.context()
        await self._learn("text", self._probe_text)
        self._calls.trial = dict(_SHORT_TEXT)

    async def text_logprobs(self) -> int:
        """How many log-probabilities it tells of a text's next position; 0 where it tells none."""
        found = await self._learn("text logprobs", self._probe_text_logprobs)
        assert isinstance(found, int), found
        return found

    async def takes_text_seed(self) -> bool:
        return bool(await self._learn("text seed", lambda: self._accepts({**_SHORT_TEXT, "seed": 1})))

    async def _learn(self, name: str, probe: Callable[[], Awaitable[object]]) -> object:
        if name in self._known:
            return self._known[name]
        async with self._turn:
            key = _key(self._calls.spec, name)
            kept = self._ledger.get(key)
            if kept is None:
                kept = {"ability": name, "value": await probe()}
                await self._ledger.keep(key, kept, self._used)
                self._used = Tokens()
            self._known[name] = kept["value"]
            return kept["value"]

    async def _probe_limit(self) -> object:
        refused: Fault | None = None
        for name in ("max_tokens", "max_completion_tokens"):
            try:
                await self._ask({name: 16})
            except Fault as fault:
                refused = fault
            else:
                return name
        raise InputError(self._calls.place, f"it takes not even a plain request: {refused}", None, "check its log")

    async def _look_up_model(self) -> int | None:
        """Refuses a model that the endpoint does not list; where it lists nothing, the first request will tell."""
        spec = self._calls.spec
        try:
            listed = await self._calls.client.models(min(spec.call_seconds, spec.connect_seconds + 20))
        except Fault as fault:
            if fault.kind == "stop":
                raise InputError(self._calls.place, str(fault), None, fault.remedy) from None
            return None
        names = [entry["id"] for entry in listed if isinstance(entry.get("id"), str)]
        found = next((entry for entry in listed if entry.get("id") in (spec.model, spec.served_as)), None)
        if found is None and names and len(names) < 1000 and f"{spec.model}:latest" not in names:
            shown = ", ".join(map(str, sorted(names, key=str)[:8]))
            raise MissingModel(self._calls.place, "the endpoint has no such model", spec.model, f"it has {shown}")
        return context_of(found) if found else None

    async def _probe_logprobs(self, limit: LimitField) -> object:
        for most in (MOST_LOGPROBS, FEWER_LOGPROBS):
            answer = await self._try({limit: 1, "temperature": 1.0, "logprobs": True, "top_logprobs": most})
            if answer is not None:
                return most if answer.top else 0
        return 0

    async def _probe_text(self) -> object:
        """A refusal is not kept: once the model is served otherwise, the same command goes on."""
        if await self._accepts(_SHORT_TEXT):
            return True
        raise InputError(
            self._calls.place,
            "the endpoint goes on with no plain text: it has no /completions for this model",
            None,
            "set style: chat, or serve the model with a program that has it, such as vLLM",
        )

    async def _probe_text_logprobs(self) -> object:
        answer = await self._try({**_SHORT_TEXT, "temperature": 1.0, "logprobs": FEWER_LOGPROBS})
        return FEWER_LOGPROBS if answer is not None and answer.top else 0

    async def _probe_schema(self, limit: LimitField) -> object:
        words = ("north", "south")
        answer = await self._try({limit: 64, "temperature": 0.0, "response_format": schema_of(words)})
        return answer is not None and chosen_in(answer.text, words) is not None

    async def _accepts(self, fields: dict[str, object]) -> bool:
        return await self._try(fields) is not None

    async def _try(self, fields: dict[str, object]) -> Answer | None:
        try:
            return await self._ask(fields)
        except Fault:
            return None

    async def _ask(self, fields: dict[str, object]) -> Answer:
        """The answer to a short request with these fields; a `Fault` only where it was refused."""
        chat = {} if "prompt" in fields else {"messages": [{"role": "user", "content": HELLO}]}
        try:
            answer, used = await self._calls.ask({**chat, **fields}, 64)
        except Fault as fault:
            if fault.reason in _REFUSALS:
                raise
            problem = f"what it can do could not be found out: {fault}"
            raise EndpointError(self._calls.place, problem, "the same command tries again") from None
        self._used += used
        return answer


def known_abilities(spec: RemoteSpec, ledger: Ledger) -> dict[str, object]:
    """What has been found out so far."""
    found = {name: ledger.get(_key(spec, name)) for name in ABILITIES}
    return {name: kept["value"] for name, kept in found.items() if kept is not None}


def has_answered(spec: RemoteSpec, ledger: Ledger) -> bool:
    """Whether this endpoint's model has answered in an earlier start: these two are only known by an answer."""
    return not known_abilities(spec, ledger).keys().isdisjoint(("limit", "text"))


def context_of(entry: dict[str, object]) -> int | None:
    """The longest conversation that a model of `/models` takes, by the names that servers give it."""
    meta = entry.get("meta")
    inner = meta if isinstance(meta, dict) else {}
    told = (entry.get("max_model_len"), entry.get("context_length"), inner.get("n_ctx"), inner.get("n_ctx_train"))
    return next((value for value in told if type(value) is int and value > 0), None)


def schema_of(words: tuple[str, ...]) -> dict[str, object]:
    """A `response_format` that allows one of these words and nothing else."""
    schema = {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": list(words)}},
        "required": ["choice"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "choice", "strict": True, "schema": schema}}


def chosen_in(text: str, words: tuple[str, ...]) -> str | None:
    """The word in a reply that obeys `schema_of`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    choice = value.get("choice") if isinstance(value, dict) and value.keys() == {"choice"} else None
    return choice if isinstance(choice, str) and choice in words else None


def _key(spec: RemoteSpec, name: str) -> str:
    return digest(["ability", spec.identity, name])
