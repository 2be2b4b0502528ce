"""The error tree. Every error says place, problem, value and remedy; each class knows its exit code.

    CaiError                  1   something failed
    ├── InputError            2   what the user brought cannot be used
    │   ├── MissingModel      2   a model that is not there or may not be had
    │   ├── FolderInUse       2   another process owns the folder
    │   └── DamagedFile       2   a file of ours was changed or cut after it was written
    ├── OutOfMemory           1   the device has no room for this many rows at once
    ├── EndpointError         1   a remote model that cannot go on; what it said so far is kept
    ├── GateRefused           3   a quality gate stopped the run
    └── Interrupted         130   stopped on request; the work so far is kept

Nothing here prints, logs or exits: the command line and the service decide how an error is shown.
"""

from typing import ClassVar


class CaiError(Exception):
    """An error whose message is complete: it is printed without a traceback."""

    exit_code: ClassVar[int] = 1


class InputError(CaiError):
    """Input that cannot be used, told as place, problem, value and remedy."""

    exit_code: ClassVar[int] = 2

    def __init__(self, place: str, problem: str, value: object = None, remedy: str = "") -> None:
        # All four go to Exception.args, so that the error survives pickling between processes.
        super().__init__(place, problem, value, remedy)
        self.place = place
        self.problem = problem
        self.value = value
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.place}: {self.problem}"
        if self.value is not None:
            text += f", got {shorten(self.value)}"
        if self.remedy:
            text += f"; {self.remedy}"
        return text


class MissingModel(InputError):
    """A model that cannot be found, or that this account may not load."""


class FolderInUse(InputError):
    """A folder that another process holds."""


class DamagedFile(InputError):
    """A file of ours that no longer holds what was committed to it."""


class OutOfMemory(CaiError):
    """The device had no room; `rows` is how many were in hand at most."""

    def __init__(self, device: str, rows: int) -> None:
        super().__init__(device, rows)
        self.device = device
        self.rows = rows

    def __str__(self) -> str:
        return (
            f"{self.device}: out of memory with {self.rows} rows at once; "
            "shorten the answers, or choose a smaller model or a stronger quantisation"
        )


class EndpointError(CaiError):
    """A remote model that cannot go on, told as place, problem and remedy. Every reply it gave is in its journal."""

    def __init__(self, place: str, problem: str, remedy: str) -> None:
        super().__init__(place, problem, remedy)
        self.place = place
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.place}: {self.problem}; {self.remedy}"


class GateRefused(CaiError):
    """A quality gate said no; what it measured stands in the message."""

    exit_code: ClassVar[int] = 3


class Interrupted(CaiError):
    """The user asked to stop; everything committed is kept and the same command goes on from there."""

    exit_code: ClassVar[int] = 130


def shorten(value: object, limit: int = 120) -> str:
    """A value as it stands in a message: text as it is, anything else as Python writes it, cut to one short line."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split()) or repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
