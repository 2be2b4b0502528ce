"""What a user may set about the filters. Nothing heavy is imported here: pipeline files are checked with it."""

from pydantic import BaseModel, ConfigDict, Field


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
    """As many preferred pairs with the longer answer chosen as with the shorter; without it a skew is only told."""
