"""All filters over a data set: rows that stay, named rejects for the others, and a report of both.

Two readings of the data. The first asks the filters that look at one row or at those before it, and learns bursts from
what they leave; the second takes out what only the whole data shows. Balancing lengths reads once more in between,
since it must know what else will go.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from cai.feedback.filters.bursts import Burst, Sampled, burst_in, find_bursts
from cai.feedback.filters.duplicates import exact_duplicates, near_duplicates
from cai.feedback.filters.lengths import Lengths
from cai.feedback.filters.looking import Finding, Row, Sieve, answers_of, prompt_of
from cai.feedback.filters.overlap import overlap_with
from cai.feedback.filters.private import private_data
from cai.feedback.filters.quality import poor_text
from cai.feedback.filters.settings import FilterSettings
from cai.records import Preference, Reject

STAGE = "filter"


@dataclass(frozen=True, slots=True)
class SiftReport:
    """`inputs` = `outputs` + all of `rejects`. `warnings` are what was seen and not removed."""

    inputs: int
    outputs: int
    rejects: dict[str, int]
    bursts: list[Burst]
    chosen_longer: float | None
    """Share of the preferred pairs that stay."""
    warnings: list[str]


@dataclass
class Sifter:
    """`look` over all rows until it ends, then `sift` over the same rows in the same order."""

    settings: FilterSettings
    test_texts: Iterable[str] = ()
    report: SiftReport | None = None
    _findings: dict[int, Finding] = field(default_factory=dict)
    _bursts: list[Burst] = field(default_factory=list)
    _surplus: set[int] = field(default_factory=set)
    _rows: int = 0

    def look(self, rows: Callable[[], Iterable[Row]]) -> Iterator[int]:
        """Looks at every row, and says after each how many those were."""
        sieves = _sieves(self.settings, self.test_texts)
        sample = Sampled()
        for place, row in enumerate(rows()):
            finding = next((found for sieve in sieves if (found := sieve(row))), None)
            if finding:
                self._findings[place] = finding
            elif self.settings.bursts is not None:
                # A text that stands twice in a row, such as an answer that no revision changed, counts once.
                sample.add(prompt_of(row), list(dict.fromkeys(answers_of(row).values())))
            self._rows += 1
            yield self._rows
        if self.settings.bursts is not None:
            self._bursts = find_bursts(sample, self.settings.bursts)
        if self.settings.balance_lengths:
            self._surplus = self._beyond_balance(rows())

    @property
    def found(self) -> int:
        """How many rows will go for what was seen so far."""
        return len(self._findings)

    def sift(self, rows: Iterable[Row]) -> Iterator[Row | Reject]:
        """Every row, as itself or as its reject; the report is there when the last one was taken."""
        lengths, reasons, seen = Lengths(), Counter[str](), 0
        for place, row in enumerate(rows):
            seen += 1
            finding = self._findings.get(place) or self._burst(row)
            if place in self._surplus:
                finding = Finding(
                    "length balance", "left out so that longer and shorter chosen answers are equally many"
                )
            if finding:
                reasons[finding.reason] += 1
                yield Reject(row.id, STAGE, finding.reason, finding.detail)
            else:
                _measure(lengths, place, row)
                yield row
        assert seen == self._rows, f"{self._rows} rows were looked at and {seen} came to be sifted"
        share = lengths.share if lengths.pairs else None
        warnings = [lengths.warning] if lengths.warning else []
        outputs = seen - reasons.total()
        self.report = SiftReport(seen, outputs, dict(sorted(reasons.items())), self._bursts, share, warnings)

    def _burst(self, row: Row) -> Finding | None:
        for field_name, text in answers_of(row).items():
            if burst := burst_in(text, self._bursts):
                detail = f"{field_name} says {burst.phrase!r}, as {burst.rows} of {burst.of} rows do"
                return Finding("burst", detail)
        return None

    def _beyond_balance(self, rows: Iterable[Row]) -> set[int]:
        """Which of the rows that no other filter takes must go as well."""
        lengths = Lengths()
        for place, row in enumerate(rows):
            if place not in self._findings and not self._burst(row):
                _measure(lengths, place, row)
        return lengths.surplus()


def sift(rows: Callable[[], Iterable[Row]], settings: FilterSettings, test_texts: Iterable[str] = ()) -> Sifter:
    """A sifter that has looked at the rows; `sifter.sift(rows())` then gives them one by one."""
    sifter = Sifter(settings, test_texts)
    for _ in sifter.look(rows):
        pass
    return sifter


def _measure(lengths: Lengths, place: int, row: Row) -> None:
    """Ties and contradictions are not trained on, so their lengths teach nothing."""
    if isinstance(row, Preference) and row.kind == "preferred":
        lengths.add(place, row)


def _sieves(settings: FilterSettings, test_texts: Iterable[str]) -> list[Sieve]:
    sieves: list[Sieve] = []
    texts = list(test_texts)
    if texts:
        sieves.append(overlap_with(texts))
    if settings.private_data:
        sieves.append(private_data())
    if settings.poor_text:
        sieves.append(poor_text())
    if settings.exact_duplicates:
        sieves.append(exact_duplicates())
    if settings.near_duplicates is not None:
        sieves.append(near_duplicates(settings.near_duplicates))
    return sieves
