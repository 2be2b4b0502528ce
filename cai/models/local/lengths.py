"""How many tokens texts have, told by a model's tokenizer file alone, or guessed where there is none.

What is trained on or generated from is encoded by `chat`; this is for forecasts.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

PER_MESSAGE = 8
"""Tokens that a chat template puts around one message, at most, in the templates that are common."""
_CHARACTERS = 2
"""Characters of a token where no tokenizer says better: half of what English prose has, so that guesses are high."""

Counter = Callable[[str], int]


def token_counter(folder: Path | None) -> Counter:
    """A function from a text to its number of tokens."""
    if folder is not None and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        text = (folder / "tokenizer.json").read_text("utf-8")
        if isinstance(json.loads(text), dict):
            tokenizer = Tokenizer.from_str(text)
            return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    return lambda text: -(-len(text) // _CHARACTERS)


def conversation_length(texts: Sequence[str], count: Counter) -> int:
    """Tokens of a conversation with these messages, as a prompt."""
    return sum(count(text) + PER_MESSAGE for text in texts) + PER_MESSAGE
