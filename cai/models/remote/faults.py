"""What can go wrong with one call, and what follows from it: try again, give up the row, or stop.

How often is tried lives in `calls`; when calls are slowed down or halted, in `pace`.
"""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from cai.errors import shorten
from cai.models.protocol import TOO_LONG
from cai.seeds import derive, uniform

Kind = Literal["again", "absent", "setup", "row", "stop"]
"""again: it may pass. absent: nobody is there; may pass once the endpoint has answered in this start. setup: a mistake
in the settings; may pass once it has answered to them, in an earlier start too. row: this request will never be taken.
stop: no request will be."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
_BUSY = (429, 503, 529)
_PASSING = (408, 409, 425, *_BUSY)
_TOO_LONG = ("context_length", "context length", "maximum context", "context size", "too many tokens", "context window")
_NO_MONEY = ("insufficient_quota", "billing_hard_limit", "insufficient credits", "credit balance")


class Fault(Exception):
    """A call that gave no reply that can be used."""

    def __init__(
        self,
        kind: Kind,
        reason: str,
        detail: str = "",
        remedy: str = "",
        wait: float | None = None,
        busy: bool = False,
        used: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(kind, reason, detail, remedy, wait, busy, used)
        self.kind = kind
        self.reason = reason
        self.detail = detail
        self.remedy = remedy
        self.wait = wait
        """What the endpoint asks to wait, in seconds."""
        self.busy = busy
        """Whether the endpoint says that it has too much to do."""
        self.used = used
        """Tokens that were paid for all the same: prompt and reply."""

    def __str__(self) -> str:
        return f"{self.reason} ({self.detail})" if self.detail else self.reason


def fault_of_status(status: int, body: str, retry_after: str | None, now: datetime) -> Fault:
    """What an HTTP status other than 200 means."""
    told = _message(body)
    detail = f"HTTP {status}: {told}" if told else f"HTTP {status}"
    low = told.lower()
    if status in (401, 403):
        return Fault("stop", "key refused", detail, "check the key and what it may use")
    if status == 402 or (status == 429 and any(sign in low for sign in _NO_MONEY)):
        return Fault("stop", "no credit", detail, "check the account")
    if 300 <= status < 400:
        return Fault("setup", "redirected", detail, "redirects are not followed; put the final URL into the settings")
    if status in (404, 405, 410):
        return Fault("setup", "not found", detail, "check url, which usually ends in /v1, and model")
    if status in _PASSING or status >= 500:
        wait = seconds_to_wait(retry_after, now)
        return Fault("again", "rate limited" if status == 429 else "server error", detail, "", wait, status in _BUSY)
    if any(sign in low for sign in _TOO_LONG):
        return Fault("row", TOO_LONG, detail)
    return Fault("row", "request refused", detail)


def seconds_to_wait(header: str | None, now: datetime) -> float | None:
    """What a Retry-After header asks for: seconds, or a date, never below 0; None where there is nothing to follow."""
    text = (header or "").strip()
    if text.isascii() and text.replace(".", "", 1).isdigit() and len(text) <= 12:
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max(0.0, (date - now).total_seconds())
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def wait_before(attempt: int, key: str) -> float:
    """Full jitter: anything up to a bound that doubles with each attempt, drawn from the request's own seed."""
    return uniform(derive("wait", key), attempt) * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempt - 1))


def _message(text: str) -> str:
    """What an error body says, in one short line, however it is made."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return shorten(text, 200) if text.strip() else ""
    error = value.get("error", value) if isinstance(value, dict) else value
    if isinstance(error, dict):
        parts = [error[key] for key in ("code", "message", "detail") if isinstance(error.get(key), str) and error[key]]
        return shorten(": ".join(parts) or json.dumps(error), 200)
    return shorten(str(error), 200)
