"""Whether chosen answers are simply the longer ones, which a model learns faster than anything else; and balancing it.

A skew is told, not removed, unless somebody asks: length may be what the constitution wants.
"""

from dataclasses import dataclass, field

from cai.records import Preference
from cai.seeds import derive, uniform
from cai.statistics import Interval, share_interval

WARN_BEYOND = 0.6


@dataclass
class Lengths:
    """Counts over pairs; ties in length count half. It grows by `add`."""

    pairs: int = 0
    chosen_longer: int = 0
    equal: int = 0
    chosen_characters: int = 0
    rejected_characters: int = 0
    ids: list[tuple[float, int, bool]] = field(default_factory=list)
    """A drawn number, the row's place, and whether chosen is longer: what balancing leaves out comes from here."""

    def add(self, place: int, row: Preference) -> None:
        difference = len(row.chosen) - len(row.rejected)
        self.pairs += 1
        self.chosen_longer += difference > 0
        self.equal += difference == 0
        self.chosen_characters += len(row.chosen)
        self.rejected_characters += len(row.rejected)
        if difference:
            self.ids.append((uniform(derive("length balance", row.id), 0), place, difference > 0))

    @property
    def share(self) -> float:
        return (self.chosen_longer + self.equal / 2) / self.pairs if self.pairs else 0.5

    @property
    def interval(self) -> Interval:
        return share_interval(self.chosen_longer, self.pairs - self.equal)

    @property
    def warning(self) -> str:
        """What to say where the interval lies beyond three to two; nothing otherwise."""
        if self.interval.low > WARN_BEYOND or self.interval.high < 1 - WARN_BEYOND:
            which = "longer" if self.share > 0.5 else "shorter"
            share = self.share if self.share > 0.5 else 1 - self.share
            return f"the chosen answer is the {which} one in {share:.0%} of pairs; training on this teaches length"
        return ""

    def surplus(self) -> set[int]:
        """Places of rows to leave out so that both ways round are equally many; which ones is drawn by their ids."""
        longer = sorted(each for each in self.ids if each[2])
        shorter = sorted(each for each in self.ids if not each[2])
        more, fewer = (longer, shorter) if len(longer) > len(shorter) else (shorter, longer)
        return {place for _, place, _ in more[len(fewer) :]}
