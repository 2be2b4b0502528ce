"""All filters over a data set: rows that stay, named rejects for the others, and a report of both.

Two readings of the data. The first asks the filters that look at one row or at those before it, and learns bursts and
lengths from what they leave; the second takes out what only the whole data shows.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from pydantic import BaseModel, ConfigDict, Field

from cai.feedback.filters.bursts import Burst, Sampled, burst_in, find_bursts
from cai.feedback.filters.duplicates import exact_duplicates, near_duplicates
from cai.feedback.filters.lengths import Lengths
from cai.feedback.filters.looking import Finding, Row, Sieve, answers_of, prompt_of
from cai.feedback.filters.overlap import overlap_with
from cai.feedback.filters.private import private_data
from cai.feedback.filters.quality import poor_text
from cai.records import Preference, Reject

STAGE = "filter"


class FilterSettings(BaseModel):
    """Which filters look at the data. None or false leaves one out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    exact_duplicates: bool = True
    """Rows that equal an earlier one but for white space, or have its answers the other way round."""
    near_duplicates: float | None = Field(default=0.8, ge=0.5, le=1)
    """Rows that share at least this much of their runs of three words with an earlier one."""
    bursts: float | None = Field(default=0.003, gt=0, le=1)
    """Rows with a phrase that stands in at least this share of rows and that nothing explains."""
    private_data: bool = True
    """Rows with e-mail addresses, card numbers, phone numbers or secret keys."""
    poor_text: bool = True
    """Rows whose chosen answer reads like spam, repetition, boilerplate or word salad."""
    balance_lengths: bool = False
    """As many pairs whose chosen answer is longer as pairs whose is shorter; without it a skew is only told."""


@dataclass(frozen=True, slots=True)
class SiftReport:
    """`inputs` = `outputs` + all of `rejects`. `warnings` are what was seen and not removed."""

    inputs: int
    outputs: int
    rejects: dict[str, int]
    bursts: list[Burst]
    chosen_longer: float | None
    warnings: list[str]


@dataclass
class Sifter:
    """One pass of `look` over all rows, then `sift` over the same rows in the same order."""

    settings: FilterSettings
    test_texts: Iterable[str] = ()
    report: SiftReport | None = None
    _findings: dict[int, Finding] = field(default_factory=dict)
    _bursts: list[Burst] = field(default_factory=list)
    _lengths: Lengths = field(default_factory=Lengths)
    _rows: int = 0

    def look(self, rows: Iterable[Row]) -> None:
        sieves = _sieves(self.settings, self.test_texts)
        sample = Sampled()
        for place, row in enumerate(rows):
            self._rows += 1
            finding = next((found for sieve in sieves if (found := sieve(row))), None)
            if finding:
                self._findings[place] = finding
                continue
            if self.settings.bursts is not None:
                sample.add(prompt_of(row), list(answers_of(row).values()))
            if isinstance(row, Preference):
                self._lengths.add(place, row)
        if self.settings.bursts is not None:
            self._bursts = find_bursts(sample, self.settings.bursts)

    def sift(self, rows: Iterable[Row]) -> Iterator[Row | Reject]:
        """Every row, as itself or as its reject; the report is there when the last one was taken."""
        surplus = self._lengths.surplus() if self.settings.balance_lengths else set()
        reasons: Counter[str] = Counter()
        seen = 0
        for place, row in enumerate(rows):
            seen += 1
            finding = self._findings.get(place) or self._found_late(row, place in surplus)
            if finding:
                reasons[finding.reason] += 1
                yield Reject(row.id, STAGE, finding.reason, finding.detail)
            else:
                yield row
        assert seen == self._rows, f"{self._rows} rows were looked at and {seen} came to be sifted"
        told = self._lengths.warning if not self.settings.balance_lengths else ""
        share = self._lengths.share if self._lengths.pairs else None
        warnings = [told] if told else []
        outputs = seen - reasons.total()
        self.report = SiftReport(seen, outputs, dict(sorted(reasons.items())), self._bursts, share, warnings)

    def _found_late(self, row: Row, surplus: bool) -> Finding | None:
        for field_name, text in answers_of(row).items():
            if burst := burst_in(text, self._bursts):
                detail = f"{field_name} says {burst.phrase!r}, as {burst.rows} of {burst.of} rows do"
                return Finding("burst", detail)
        if surplus:
            return Finding("length balance", "left out so that longer and shorter chosen answers are equally many")
        return None


def sift(rows: Callable[[], Iterator[Row]], settings: FilterSettings, test_texts: Iterable[str] = ()) -> Sifter:
    """A sifter that has looked at the rows; `sifter.sift(rows())` then gives them one by one."""
    sifter = Sifter(settings, test_texts)
    sifter.look(rows())
    return sifter


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
