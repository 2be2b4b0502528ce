"""Data that belongs to somebody: e-mail addresses, card numbers, phone numbers and secret keys, by their form.

What is found is named but never repeated: the reject must not spread what the filter holds back.
"""

import re
from collections.abc import Iterator

from cai.feedback.filters.looking import Finding, Row, Sieve, answers_of

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z]{2,24}(?![\w-])")
# Domains that are set aside for examples (RFC 2606) belong to nobody.
_NOBODYS = re.compile(r"@(?:[\w-]+\.)*(?:example|test|invalid|localhost)(?:\.(?:com|net|org))?$", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_DIGITS = re.compile(r"(?<![\w.,-])\d(?:[ -]?\d){12,18}(?![\w-])")
_PHONE = re.compile(
    r"(?<![\w.,/-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}"
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}|\d{3}[.-]\d{3}[.-]\d{4})(?![\w-])"
)
_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----"
    r"|\b(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?[A-Za-z0-9_-]{20,}"
    r"|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bhf_[A-Za-z0-9]{30,}\b|\bxox[abprs]-[A-Za-z0-9-]{10,}"
    r"|\bAIza[0-9A-Za-z_-]{35}\b|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}"
)

# Each form of a key holds one of these; looking for them first is seven times as fast.
_KEY_SIGNS = (
    *("PRIVATE KEY-----", "sk-", "sk_", "pk-", "pk_", "rk-", "rk_"),
    *("AKIA", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "hf_", "xox", "AIza", "eyJ"),
)


def private_data(prompts: bool = True) -> Sieve:
    """Finds rows that hold such data in an answer, or in any message of the prompt."""

    def look(row: Row) -> Finding | None:
        texts = dict(answers_of(row))
        if prompts:
            texts["prompt"] = "\n".join(message.content for message in row.prompt.messages)
        for field, text in texts.items():
            for kind in found_in(text):
                return Finding(f"private data: {kind}", f"{field} holds what looks like one")
        return None

    return look


def found_in(text: str) -> Iterator[str]:
    """The kinds of private data in this text, each as often as it stands there."""
    if "@" in text:
        yield from ("e-mail" for match in _EMAIL.finditer(text) if not _NOBODYS.search(match[0]))
    if _DIGIT.search(text):
        yield from _numbers_in(text)
    if any(sign in text for sign in _KEY_SIGNS):
        yield from ("secret key" for _ in _KEY.finditer(text))


def _numbers_in(text: str) -> Iterator[str]:
    yield from ("card number" for match in _DIGITS.finditer(text) if is_card(match[0]))
    yield from ("phone number" for match in _PHONE.finditer(text) if _is_phone(match[0]))


def is_card(text: str) -> bool:
    """Luhn's checksum over 13 to 19 digits that begin as card numbers do; one digit repeated is no number."""
    digits = [int(c) for c in text if c.isdigit()]
    if not 13 <= len(digits) <= 19 or digits[0] not in (2, 3, 4, 5, 6) or len(set(digits)) == 1:
        return False
    doubled = [2 * d - 9 * (d > 4) for d in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_phone(text: str) -> bool:
    digits = [c for c in text if c.isdigit()]
    # 555-01xx is set aside for fiction, and toll-free numbers are nobody's own.
    local = "".join(digits[-10:])
    fiction = local[3:8] == "55501" or local[:3] in ("800", "888", "877", "866", "855", "844", "833")
    return 10 <= len(digits) <= 15 and not fiction and len(set(digits)) > 2
