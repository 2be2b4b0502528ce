"""Texts as words, for filters that count: lower case, no punctuation; symbols count, and so does each CJK character."""

import re

_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+"
    r"(?:['’.-][^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af]+)*"
    r"|[\u2600-\u27bf\U0001f000-\U0001faff]"
)


def words(text: str) -> list[str]:
    """A compound joined by a hyphen, an apostrophe or a point inside is one word, as in well-being, isn't and U.S."""
    return _WORD.findall(text.lower().replace("’", "'"))


def is_symbol(word: str) -> bool:
    return not word[0].isalnum()


def shingles(tokens: list[str], size: int) -> list[str]:
    """All runs of so many words; a text that is shorter is its own only run."""
    if len(tokens) <= size:
        return [" ".join(tokens)] if tokens else []
    return [" ".join(tokens[i : i + size]) for i in range(len(tokens) - size + 1)]
