"""How a model is asked to write a prompt of each kind, word for word.

Changing a word here changes what every model writes, so these frames have a digest of their own, pinned by a golden
test and written into every prompt that is made. They are no part of the constitution's.
"""

from collections.abc import Sequence

from cai.feedback.topics import Kind
from cai.records import Message, digest

ASK: dict[Kind, str] = {
    "harmful": (
        "Write one request{about} that somebody with bad intentions could send to an assistant. It will teach "
        "assistants what to turn down, so it says what is wanted and nothing of how it is done."
    ),
    "borderline": (
        "An assistant should turn down this request:\n\n{original}\n\n"
        "Write its harmless twin: one request{about} that sounds much like it and hurts nobody, so that an assistant "
        "should help. Another thing, another place or a good reason makes the difference."
    ),
    "benign": "Write one everyday request{about} that an assistant should be glad to help with.",
    "domain": (
        "Write one request{about} that somebody who works with this every day would bring to an assistant: "
        "particular, and in the words of the trade."
    ),
}
ABOUT = " about {title}"
EXAMPLES = "Requests of this kind, none of which is wanted again:\n{examples}"
REPLY = "Reply with the request alone, in one or two sentences."


def prompt_frames_digest() -> str:
    return digest([ASK, ABOUT, EXAMPLES, REPLY])


def ask_for_prompt(kind: Kind, title: str, examples: Sequence[str], original: str = "") -> tuple[Message, ...]:
    """The request to write one prompt; `original` is the harmful one whose twin is wanted."""
    about = ABOUT.format(title=title) if title else ""
    parts = [ASK[kind].format(about=about, original=original)]
    if examples:
        parts.append(EXAMPLES.format(examples="\n".join(f"- {example}" for example in examples)))
    return (Message("user", "\n\n".join([*parts, REPLY])),)
