"""What has been used and what may still be: hard limits on tokens and on cost.

A call is only made if the most that it can use still fits beside what is used and what is under way, so a limit is
never passed. The most is reckoned from bytes, because no token is shorter than one.
"""

from dataclasses import dataclass, field

from cai.models.remote.spec import Limits, Prices

_MESSAGE = 16
"""Tokens that a template may put around a message."""


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int = 0
    reply: int = 0

    def __add__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt + other.prompt, self.reply + other.reply)

    def __sub__(self, other: "Tokens") -> "Tokens":
        return Tokens(self.prompt - other.prompt, self.reply - other.reply)

    @property
    def all(self) -> int:
        return self.prompt + self.reply


@dataclass
class Budget:
    limits: Limits
    prices: Prices | None
    used: Tokens = field(default_factory=Tokens)
    reserved: Tokens = field(default_factory=Tokens)

    def cost(self, tokens: Tokens) -> float:
        if self.prices is None:
            return 0.0
        return (tokens.prompt * self.prices.prompt + tokens.reply * self.prices.reply) / 1e6

    def exceeded_by(self, most: Tokens) -> str:
        """The limit that a call using this much might pass, for people; nothing where it fits."""
        total = self.used + self.reserved + most
        if self.limits.tokens is not None and total.all > self.limits.tokens:
            return f"the limit of {self.limits.tokens} tokens is reached: {self.used.all} are used"
        if self.limits.cost is not None and self.cost(total) > self.limits.cost:
            return f"the limit of {self.limits.cost:g} on cost is reached: {self.cost(self.used):.4g} is used"
        return ""

    def reserve(self, most: Tokens) -> None:
        self.reserved += most

    def settle(self, most: Tokens, used: Tokens) -> None:
        """A call is over: what it really used takes the place of the most that it could."""
        self.reserved -= most
        self.used += used


def most_tokens(body_bytes: int, messages: int, reply: int) -> Tokens:
    """The most that a request of this size can use."""
    return Tokens(body_bytes + _MESSAGE * (messages + 1), reply)
