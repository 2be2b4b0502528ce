"""A model that replays what it is given: for tests, examples and dry runs, wherever a real model can stand.

Nothing is generated here, and sampling settings change nothing: a script says what each reply is and how it ended.
"""

from collections.abc import Callable, Sequence

from cai.errors import InputError, shorten
from cai.models.protocol import Choice, ChoiceRequest, Reply, Request
from cai.records import digest


class ScriptedModel:
    """Replies from a list, in the order asked, or from a function of each request.

    `replies` holds texts, or whole `Reply` values where the finish or the token counts matter. `choices` gives the
    log-probabilities of a request's continuations. A function cannot be hashed, so the name stands for it in the
    fingerprint: give models that behave differently different names.
    """

    def __init__(
        self,
        replies: Sequence[str | Reply] | Callable[[Request], str | Reply],
        choices: Callable[[ChoiceRequest], Sequence[float]] | None = None,
        name: str = "scripted",
    ) -> None:
        self.name = name
        self._answer: Callable[[Request], str | Reply] | None = replies if callable(replies) else None
        self._replies: tuple[str | Reply, ...] = () if callable(replies) else tuple(replies)
        self._used = 0
        self._choices = choices
        script = [r if isinstance(r, str) else [r.text, r.finish] for r in self._replies]
        self.fingerprint = "scripted:" + digest([name, script])

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        return [_as_reply(request, self._next(request)) for request in requests]

    def choose(self, requests: Sequence[ChoiceRequest]) -> list[Choice]:
        return [self._choose(request) for request in requests]

    def _next(self, request: Request) -> str | Reply:
        if self._answer is not None:
            return self._answer(request)
        if self._used == len(self._replies):
            raise InputError(
                f"model {self.name!r}",
                f"its script of {len(self._replies)} replies has run out at the request",
                _last_words(request),
                "give it one reply for each request",
            )
        self._used += 1
        return self._replies[self._used - 1]

    def _choose(self, request: ChoiceRequest) -> Choice:
        if self._choices is None:
            raise InputError(
                f"model {self.name!r}",
                f"it has no script for choosing between {', '.join(map(repr, request.continuations))} at the request",
                _last_words(request),
                "pass `choices`, a function that gives their log-probabilities",
            )
        return Choice(tuple(self._choices(request)), tokens=_words(request))


def _as_reply(request: Request, reply: str | Reply) -> Reply:
    """A text becomes a finished reply whose tokens are its words."""
    if isinstance(reply, Reply):
        return reply
    return Reply(reply, "stop", _words(request), len(reply.split()))


def _words(request: Request | ChoiceRequest) -> int:
    return len(request.text.split()) + sum(len(message.content.split()) for message in request.messages)


def _last_words(request: Request | ChoiceRequest) -> str:
    if request.text:
        return shorten("…" + request.text[-100:])
    return shorten(request.messages[-1].content) if request.messages else "an empty conversation"
