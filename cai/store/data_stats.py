"""Figures of a data set in one reading: counts, lengths, how sure the labels are, principles, models, sources."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from cai.records import Preference, Reject
from cai.statistics import share_interval
from cai.store.formats.rows import Answered

_MOST = 20


@dataclass
class Spread:
    """Numbers by their mean and by a histogram of two bins an octave, which is all that is kept of them."""

    n: int = 0
    total: int = 0
    largest: int = 0
    bins: Counter[int] = field(default_factory=Counter)

    def add(self, value: int) -> None:
        self.n += 1
        self.total += value
        self.largest = max(self.largest, value)
        self.bins[(value * value).bit_length()] += 1

    def quantile(self, share: float) -> int:
        """The upper end of the bin that holds this share, at most 1.42 times too large."""
        seen = 0
        for size in sorted(self.bins):
            seen += self.bins[size]
            if seen >= share * self.n:
                return min(int(2 ** (size / 2)), self.largest)
        return self.largest

    @property
    def plain(self) -> dict[str, object]:
        mean = self.total / self.n if self.n else 0.0
        return {"mean": round(mean, 1), "median": self.quantile(0.5), "p95": self.quantile(0.95), "max": self.largest}


@dataclass
class DataStats:
    """It grows by `add`; lengths are characters."""

    rows: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    prompts: set[bytes] = field(default_factory=set)
    turns: Counter[int] = field(default_factory=Counter)
    with_system: int = 0
    with_tools: int = 0
    lengths: dict[str, Spread] = field(default_factory=dict)
    probabilities: Counter[int] = field(default_factory=Counter)
    without_verdicts: int = 0
    longer: Counter[str] = field(default_factory=Counter)
    principles: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    constitutions: Counter[str] = field(default_factory=Counter)

    def add(self, row: Preference | Answered | Reject) -> None:
        self.rows += 1
        if isinstance(row, Reject):
            self.rejects[row.reason] += 1
            return
        prompt = row.prompt
        self.prompts.add(prompt.id.encode()[:16])
        self.turns[sum(message.role == "user" for message in prompt.messages)] += 1
        self.with_system += any(message.role == "system" for message in prompt.messages)
        self.with_tools += bool(prompt.tools) or any(message.tool_calls for message in prompt.messages)
        self.sources[prompt.source or "unknown"] += 1
        self._spread("prompt").add(sum(len(message.content) for message in prompt.messages))
        if isinstance(row, Answered):
            self.kinds["answer" if row.label is None else "wanted" if row.label else "unwanted"] += 1
            self._spread("answer").add(len(row.completion))
        else:
            self._add_pair(row)

    def _add_pair(self, row: Preference) -> None:
        self.kinds[row.kind] += 1
        self._spread("chosen").add(len(row.chosen))
        self._spread("rejected").add(len(row.rejected))
        difference = len(row.chosen) - len(row.rejected)
        self.longer["chosen" if difference > 0 else "rejected" if difference else "neither"] += 1
        self.probabilities[min(int(row.p_chosen * 10), 9)] += 1
        self.without_verdicts += not row.verdicts
        self.principles.update({verdict.principle_id for verdict in row.verdicts})
        for role in ("answerer", "critic", "judge"):
            if model := getattr(row.lineage, role):
                self.models[f"{role} {model}"] += 1
        if row.lineage.constitution:
            self.constitutions[row.lineage.constitution] += 1

    def _spread(self, name: str) -> Spread:
        return self.lengths.setdefault(name, Spread())

    @property
    def chosen_longer(self) -> float | None:
        """The share of pairs whose chosen answer is the longer one, equal ones counted half."""
        n = self.longer.total()
        return (self.longer["chosen"] + self.longer["neither"] / 2) / n if n else None

    @property
    def plain(self) -> dict[str, object]:
        n = self.longer["chosen"] + self.longer["rejected"]
        interval = share_interval(self.longer["chosen"], n)
        return {
            "rows": self.rows,
            "rejects": dict(sorted(self.rejects.items())),
            "kinds": dict(sorted(self.kinds.items())),
            "prompts": len(self.prompts),
            "turns": {str(turns): count for turns, count in sorted(self.turns.items())},
            "with_system": self.with_system,
            "with_tools": self.with_tools,
            "lengths": {name: spread.plain for name, spread in self.lengths.items()},
            "judge_prob": {f"{i / 10:.1f}": self.probabilities[i] for i in range(10)} if n else {},
            "without_verdicts": self.without_verdicts,
            "chosen_longer": self.chosen_longer,
            "chosen_longer_interval": [interval.low, interval.high] if n else None,
            "principles": dict(self.principles.most_common(_MOST)),
            "models": dict(self.models.most_common(_MOST)),
            "sources": dict(self.sources.most_common(_MOST)),
            "constitutions": dict(self.constitutions.most_common(_MOST)),
        }


def stats_of(rows: Iterable[Preference | Answered | Reject]) -> DataStats:
    stats = DataStats()
    for row in rows:
        stats.add(row)
    return stats
