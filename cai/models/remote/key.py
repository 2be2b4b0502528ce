"""An endpoint's key: read from the environment or a file when it is needed, and shown nowhere."""

import os
import re
from pathlib import Path

from cai.errors import InputError
from cai.models.remote.spec import RemoteSpec

REDACTED = "[key]"
_SHORTEST_REDACTED = 8


class Key:
    """The secret, or none. It goes into one header and is taken out of everything that comes back."""

    __slots__ = ("_text", "source")

    def __init__(self, text: str, source: str) -> None:
        self._text = text
        self.source = source

    def __repr__(self) -> str:
        return f"<the key in {self.source}>" if self._text else "<no key>"

    def __reduce__(self) -> str:
        raise TypeError("a key is not copied")

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._text}"} if self._text else {}

    def redact(self, text: str) -> str:
        """The text without the key. A key of a few letters is no secret, and its letters stand in many words."""
        return text.replace(self._text, REDACTED) if len(self._text) >= _SHORTEST_REDACTED else text


def read_key(spec: RemoteSpec, place: str) -> Key:
    if spec.key_env is not None:
        source = f"${spec.key_env}"
        text = os.environ.get(spec.key_env, "").strip()
        if not text:
            raise InputError(place, f"the environment variable {spec.key_env} is not set", None, "set it to the key")
    elif spec.key_file is not None:
        source = spec.key_file
        text = _read(Path(spec.key_file).expanduser(), place)
    else:
        return Key("", "")
    if not re.fullmatch(r"[\x21-\x7e]+", text):
        problem = f"what stands in {source} is no key: it holds a space or a letter outside ASCII"
        raise InputError(place, problem, None, "put the key alone there")
    return Key(text, source)


def _read(path: Path, place: str) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        problem = f"the key file {path} cannot be read ({error.strerror})"
        raise InputError(place, problem, None, "check its path and its permissions") from None
    except UnicodeDecodeError:
        raise InputError(place, f"the key file {path} is not text", None, "put the key alone there") from None
    if not text:
        raise InputError(place, f"the key file {path} is empty", None, "put the key there")
    return text
