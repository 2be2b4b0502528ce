"""`cai chat`: talk to a model, or to what a run made of one. Words appear as they are drawn."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from cai.cli.embedded import note_if_unknown
from cai.cli.opening import open_named
from cai.cli.screen import complain

if TYPE_CHECKING:
    from cai.models.local.view import LocalModel
    from cai.models.protocol import Sampling
    from cai.records import Message


def chat(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL-OR-RUN", help="`tiny`, a folder, a hub id, or a run: NAME or NAME/STAGE.", show_default=False
        ),
    ],
    once: Annotated[str | None, typer.Option(metavar="TEXT", help="Ask this, print the answer, end.")] = None,
    revision: Annotated[str | None, typer.Option(help="The commit of a hub id.", show_default=False)] = None,
    system: Annotated[str, typer.Option(help="A system message to begin with.", show_default=False)] = "",
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.7,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 512,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same answers.")] = 0,
) -> None:
    """Talk to a model. A run stands for its base model with the last adapter that it trained.

    A run is named as below runs/, or by its folder; `quickstart/sft` is what its stage sft made.

    The embedded model knows the requests of its own small world only.
    """
    from cai.models.protocol import Sampling
    from cai.records import Message

    view = open_named(model, revision)
    sampling = Sampling(temperature=temperature, max_new_tokens=max_tokens)
    start = [Message("system", system)] if system else []
    if once is not None:
        note_if_unknown(view.name, once)
        _answer(view, [*start, Message("user", once)], sampling, seed)
        return
    _converse(view, start, sampling, seed)


def _converse(view: "LocalModel", start: "list[Message]", sampling: "Sampling", seed: int) -> None:
    from cai.records import Message
    from cai.seeds import derive

    complain(f"{view.name}: /new starts again, /end or Ctrl-D ends")
    messages = list(start)
    while (text := _asked()) is not None:
        if text == "/new":
            messages = list(start)
        elif text:
            note_if_unknown(view.name, text)
            messages.append(Message("user", text))
            answer = _answer(view, messages, sampling, derive("chat", seed, len(messages)))
            messages.append(Message("assistant", answer))


def _asked() -> str | None:
    """The next line, or None where the conversation ends."""
    try:
        text = input("› " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return None if text == "/end" else text


def _answer(view: "LocalModel", messages: "list[Message]", sampling: "Sampling", seed: int) -> str:
    from cai.models.protocol import Request

    parts = []
    for part in view.stream(Request(tuple(messages), sampling, seed)):
        parts.append(part)
        print(part, end="", flush=True)
    print(flush=True)
    return "".join(parts)
