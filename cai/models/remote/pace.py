"""How many calls at a time, and when none: as the endpoint bears it. Pure state; the clock is the caller's.

Additive increase, multiplicative decrease: each answer raises the limit by one in a round of calls, each sign that the
endpoint has too much to do halves it, once for all calls that were already under way. Faults in a row without one
answer open a circuit breaker: a pause that doubles, then one trial call. Nothing else is asked in the meantime.
"""

from dataclasses import dataclass

FAULTS_IN_A_ROW = 10
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0


@dataclass
class Pace:
    most: int
    """The most calls at a time."""
    patience: float
    """Seconds without any answer after which the endpoint counts as dead."""
    limit: float = 0.0
    in_flight: int = 0
    faults: int = 0
    """In a row, since the last answer."""
    ever_answered: bool = False
    _since: float | None = None
    """When the first of those faults came."""
    _not_before: float = 0.0
    _cut_at: float = 0.0
    _opened_at: float = 0.0
    _pause: float = 0.0

    def __post_init__(self) -> None:
        self.limit = float(min(self.most, 4))

    @property
    def broken(self) -> bool:
        """Whether the breaker is open, or waits for its trial call."""
        return self._pause > 0

    def wait(self, now: float) -> float | None:
        """Seconds until the next call may start; None while a call under way must end first."""
        if self.in_flight >= (1 if self.broken else int(self.limit)):
            return None
        return max(0.0, self._not_before - now)

    def dead(self, now: float) -> bool:
        return self.broken and self._since is not None and now - self._since >= self.patience

    def begin(self) -> None:
        self.in_flight += 1

    def answered(self) -> None:
        self.refused()
        self.ever_answered = True
        self.limit = min(float(self.most), self.limit + 1 / self.limit)

    def refused(self) -> None:
        """A request that the endpoint will not take: it is well, and said so."""
        self.in_flight -= 1
        self.faults, self._since, self._pause = 0, None, 0.0

    def dropped(self) -> None:
        """A call given up from this side, which says nothing of the endpoint."""
        self.in_flight -= 1

    def failed(self, began: float, now: float, busy: bool = False, wait: float | None = None) -> None:
        """A call that began then gave no reply; the endpoint may have asked to be left alone for a while."""
        self.in_flight -= 1
        self.faults += 1
        self._since = began if self._since is None else self._since
        if busy and began >= self._cut_at:
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = now
        if wait is not None:
            self._not_before = max(self._not_before, now + wait)
        # Calls that were under way when the breaker opened say nothing new.
        if self.faults >= FAULTS_IN_A_ROW and began >= self._opened_at:
            self._opened_at = now
            self._pause = min(LONGEST_PAUSE, self._pause * 2 or FIRST_PAUSE)
            self._not_before = max(self._not_before, now + self._pause)
