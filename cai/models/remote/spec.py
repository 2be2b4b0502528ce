"""Which endpoint to ask and within which limits: plain values without httpx, so that a pipeline file can be read.

A key is never part of this: only where it is to be read from. What is refused here is refused without showing it, since
a wrong place is where keys end up.
"""

import json
import re
from ipaddress import ip_address
from typing import Annotated, Self
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from cai.records import digest

_STRICT = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)
_OURS = (
    *("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens", "stop", "seed", "tools"),
    *("n", "stream", "stream_options", "logprobs", "top_logprobs", "response_format"),
)

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _as_json(value: object) -> object:
    """Texts that are JSON numbers as numbers: in our YAML every plain scalar but true, false and null is text."""
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?([eE][+-]?\d{1,2})?", value):
        return json.loads(value)
    return value


class Limits(BaseModel):
    """What one run may use; what the journal already holds counts."""

    model_config = _STRICT

    cost: Money | None = None
    """In the currency of `prices`."""
    tokens: Annotated[int, Field(ge=0)] | None = None
    """Prompt and reply together."""
    seconds: Seconds | None = None
    """From the first call of one command on; going on later starts anew. Calls under way then may end."""


class Prices(BaseModel):
    """For a million tokens."""

    model_config = _STRICT

    prompt: Money
    """What is sent."""
    reply: Money
    """What comes back."""


class RemoteSpec(BaseModel):
    """A model behind an endpoint."""

    model_config = _STRICT

    url: str
    """The endpoint's base, which usually ends in `/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name at the endpoint."""
    key_env: str | None = None
    """The environment variable that holds the key."""
    key_file: str | None = None
    """The file that holds the key, and nothing else."""
    served_as: str | None = None
    """The name that replies carry, where it is another than `model`. A reply with a foreign name is not accepted."""
    limits: Limits = Limits()
    """Where to stop."""
    prices: Prices | None = None
    """What tokens cost; a limit on cost needs them."""
    concurrency: Annotated[int, Field(ge=1, le=512)] = 8
    """The most calls at a time. Fewer are made while the endpoint says that it has too much to do."""
    tries: Annotated[int, Field(ge=1, le=20)] = 5
    """How often one request is tried before its row is rejected."""
    connect_seconds: Seconds = 10
    """The longest wait for a connection."""
    idle_seconds: Seconds = 120
    """The longest silence within a call; without `stream` that is the longest reply."""
    call_seconds: Seconds = 300
    """The longest call, however it trickles."""
    patience_seconds: Seconds = 120
    """How long an endpoint may answer nothing at all before the run stops."""
    max_bytes: Count = 8 * 1024 * 1024
    """The largest reply."""
    stream: bool = False
    """Have answers sent as they are made: for endpoints behind something that cuts silent connections."""
    choice_tokens: Count = 256
    """The longest reply to a choice where the endpoint tells no log-probabilities; a reasoning model needs more."""
    extra: Annotated[dict[str, JsonValue], BeforeValidator(_as_json)] = Field(default_factory=dict)
    """Sent along with every call, such as `top_k: 20`."""

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        _check_url(self.url, has_key=bool(self.key_env or self.key_file))
        if self.key_env and self.key_file:
            raise ValueError("key_env and key_file are both given; keep one")
        if self.key_env is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env):
            raise ValueError(
                "key_env must be the name of an environment variable in capitals, such as OPENAI_API_KEY; "
                "if the key itself stands here, take it out and consider it known to others"
            )
        if self.limits.cost is not None and self.prices is None:
            raise ValueError("limits.cost needs prices; add prices: {prompt: …, reply: …}, for a million tokens")
        if taken := sorted(self.extra.keys() & set(_OURS)):
            raise ValueError(f"extra.{taken[0]} is set by the program; remove it")
        return self

    @property
    def base(self) -> str:
        return self.url.rstrip("/")

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc

    @property
    def identity(self) -> str:
        """Who is asked: what every reply in the journal is kept under."""
        return digest([self.base, self.model, self.extra])

    @property
    def fingerprint(self) -> str:
        """Who is asked, and how choices are read. Which weights answer is the endpoint's word: the journal has it."""
        return "remote:" + digest([self.identity, self.choice_tokens])


def _check_url(url: str, has_key: bool) -> None:
    """Raises `ValueError`, never with the URL in it: it may hold a secret."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("url is no URL; write it as in https://host/v1") from None
    if re.search(r"[\s\\\x00-\x1f\x7f]", url) or parts.scheme not in ("http", "https") or not host:
        raise ValueError("url must begin with http:// or https:// and name a host, as in https://host/v1")
    if "@" in parts.netloc:
        raise ValueError("url holds a user or password; remove it and give the key by key_env or key_file")
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise ValueError("url holds a query or fragment; remove it, and give a key by key_env or key_file")
    if _is_link_local(host):
        raise ValueError("url names a link-local address, where cloud metadata lives; name the endpoint's own host")
    if has_key and parts.scheme == "http" and not _is_loopback(parts):
        raise ValueError("url would send the key unencrypted over the network; use https, or remove the key")


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _is_link_local(host: str) -> bool:
    try:
        return ip_address(host.partition("%")[0]).is_link_local
    except ValueError:
        return False
