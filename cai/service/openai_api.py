"""`/v1`: models and chat completions as OpenAI's clients speak them, for the embedded model and every finished run.

What a request may hold, and how an answer looks on the wire. A parameter that would be ignored is refused instead: an
answer must be what was asked for.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from fastapi.sse import EventSourceResponse, format_sse_event
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cai.models.protocol import Sampling
from cai.models.tiny.weights import FOLDER as TINY_FOLDER
from cai.records import Message
from cai.seeds import derive
from cai.service.auth import error_body
from cai.service.device import Overloaded
from cai.service.messages import ChatNews, ChatRefused, ChoiceEnded, Piece
from cai.service.office import Office, office_of

TINY = "tiny"
MAX_TOKENS = 4096
RETRY_SECONDS = 5
WAIT_SECONDS = 60.0
"""How long a conversation waits to be taken up: while a run is going on, it has to wait for a step to end."""
News = AsyncGenerator[ChatNews, None]
_STRICT = ConfigDict(extra="forbid", frozen=True)

router = APIRouter(prefix="/v1")


class TextPart(BaseModel):
    model_config = _STRICT

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    model_config = _STRICT

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=64)]
    name: Annotated[str, Field(max_length=64)] | None = None

    def as_message(self) -> Message:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class StreamOptions(BaseModel):
    model_config = _STRICT

    include_usage: bool = False


Stop = Annotated[str, Field(min_length=1, max_length=64)]
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]


class ChatRequest(BaseModel):
    model_config = _STRICT

    model: Annotated[str, Field(max_length=80)]
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    n: Annotated[int, Field(ge=1, le=8)] | None = 1
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=512)] | None = None
    # These change what a model says, so only the values that change nothing are taken.
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are two names for one thing; send one")
        if self.messages[-1].role == "assistant":
            raise ValueError("the last message must not be the assistant's: there is nothing to answer")
        return self

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=self.top_p or 1.0,
            max_new_tokens=self.max_completion_tokens or self.max_tokens or 512,
            stop=(self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()),
        )

    @property
    def seeds(self) -> tuple[int, ...]:
        """One for each choice; without a seed in the request no two answers need be alike."""
        first = secrets.randbits(62) if self.seed is None else derive("chat", self.seed)
        return tuple(derive("choice", first, i) for i in range(self.n or 1))


@router.get("/models")
def list_models(request: Request) -> dict[str, object]:
    office = office_of(request)
    return {"object": "list", "data": [_model(name, made) for name, made in models(office).items()]}


@router.get("/models/{name}", response_model=None)
def one_model(name: str, request: Request) -> dict[str, object] | Response:
    found = models(office_of(request))
    return _model(name, found[name]) if name in found else _no_model(name)


@router.post("/chat/completions", response_model=None)
async def chat_completions(asked: ChatRequest, request: Request) -> Response | dict[str, object]:
    office = office_of(request)
    if asked.model not in await asyncio.to_thread(models, office):
        return _no_model(asked.model)
    run = "" if asked.model == TINY else str(office.listing.runs / asked.model)
    messages = [message.as_message() for message in asked.messages]
    news = office.device.chat(run, messages, asked.sampling, asked.seeds, bool(asked.stream))
    try:
        await asyncio.wait_for(anext(news), WAIT_SECONDS)
        first = await anext(news)
    except Overloaded:
        return _come_back("too many conversations are waiting")
    except TimeoutError:
        return _come_back("the device is busy with a run")
    except StopAsyncIteration:
        return _come_back("the worker ended")
    if isinstance(first, ChatRefused):
        await news.aclose()
        return _refused(first)
    head = _head(asked)
    if asked.stream:
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return EventSourceResponse(_chunks(head, first, news, usage))
    return await _whole(head, first, news)


def models(office: Office) -> dict[str, int]:
    """Model names, and when each was made."""
    weights = TINY_FOLDER / "config.json"
    embedded = {TINY: int(weights.stat().st_mtime)} if weights.is_file() else {}
    return {**office.listing.models(), **embedded}


def _model(name: str, made: int) -> dict[str, object]:
    return {"id": name, "object": "model", "created": made, "owned_by": "cai"}


def _head(asked: ChatRequest) -> dict[str, object]:
    kind = "chat.completion.chunk" if asked.stream else "chat.completion"
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": kind,
        "created": int(time.time()),
        "model": asked.model,
    }


async def _whole(head: Mapping[str, object], first: ChatNews, news: News) -> Response | dict[str, object]:
    choices: list[dict[str, object]] = []
    ended: list[ChoiceEnded] = []
    async for said in _with_first(first, news):
        if isinstance(said, ChatRefused):
            return _refused(said)
        if isinstance(said, ChoiceEnded):
            ended.append(said)
            message = {"role": "assistant", "content": said.text, "refusal": None}
            choices.append({"index": said.choice, "message": message, "logprobs": None, "finish_reason": said.finish})
    return {**head, "choices": choices, "usage": _usage(ended)}


async def _chunks(head: Mapping[str, object], first: ChatNews, news: News, usage: bool) -> AsyncIterator[bytes]:
    begun: set[int] = set()
    ended: list[ChoiceEnded] = []
    nothing = {"usage": None} if usage else {}
    async for said in _with_first(first, news):
        if isinstance(said, ChatRefused):
            # The status line is long gone; clients read an `error` in the stream as one.
            yield _event(error_body(said.message, "server_error"))
            return
        if isinstance(said, Piece | ChoiceEnded) and said.choice not in begun:
            begun.add(said.choice)
            delta: dict[str, object] = {"role": "assistant", "content": ""}
            yield _event({**head, "choices": [_delta(said.choice, delta)], **nothing})
        if isinstance(said, Piece):
            yield _event({**head, "choices": [_delta(said.choice, {"content": said.text})], **nothing})
        elif isinstance(said, ChoiceEnded):
            ended.append(said)
            yield _event({**head, "choices": [_delta(said.choice, {}, said.finish)], **nothing})
    if usage:
        yield _event({**head, "choices": [], "usage": _usage(ended)})
    yield b"data: [DONE]\n\n"


async def _with_first(first: ChatNews, news: News) -> AsyncIterator[ChatNews]:
    async with aclosing(news):
        yield first
        async for said in news:
            yield said


def _delta(choice: int, delta: Mapping[str, object], finish: str | None = None) -> dict[str, object]:
    return {"index": choice, "delta": dict(delta), "logprobs": None, "finish_reason": finish}


def _event(value: Mapping[str, object]) -> bytes:
    return format_sse_event(data_str=json.dumps(value, ensure_ascii=False))


def _usage(ended: list[ChoiceEnded]) -> dict[str, int]:
    """The prompt counts once however many answers it got."""
    prompt = ended[0].prompt_tokens if ended else 0
    completion = sum(choice.completion_tokens for choice in ended)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _no_model(name: str) -> Response:
    message = f"the model '{name}' does not exist; GET /v1/models lists those that do"
    return JSONResponse(error_body(message, param="model", code="model_not_found"), 404)


def _refused(said: ChatRefused) -> Response:
    if said.why == "busy":
        return _come_back(said.message)
    if said.why == "bad":
        code = "context_length_exceeded" if said.message.startswith(("too long", "no room")) else None
        return JSONResponse(error_body(said.message, param="messages", code=code), 400)
    return JSONResponse(error_body(said.message, "server_error"), 500)


def _come_back(message: str) -> Response:
    headers = {"Retry-After": str(RETRY_SECONDS)}
    return JSONResponse(error_body(message, "server_error", code="busy"), 503, headers)
