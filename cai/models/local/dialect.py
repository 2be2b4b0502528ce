"""A chat template in the words of Ollama's Modelfile: found by rendering conversations, never by reading the template.

Most templates write each turn as fixed text, the message, fixed text. These texts are taken from a few renderings of
the template that a run was trained with, and then have to give back, character by character, the renderings of other
conversations. A template that does more than that is refused: a guess would make the model speak gibberish.

Facts of Ollama: its templates are Go's; `.System` is all system messages joined by an empty line, `.Messages` every
message, neighbours of one role merged. It writes a beginning-of-sequence token of its own only where
`tokenizer_config.json` says `add_bos_token`, so an export says false there and the template writes the token itself.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cai.errors import InputError

Turn = tuple[str, str]
"""Role and content."""
Render = Callable[[Sequence[Turn]], str]
"""A conversation that ends with the user, as text with the opening of the answer."""
_S, _A, _B, _C = "qzxs", "qzxa", "qzxb", "qzxc"
_PROBES: tuple[tuple[Turn, ...], ...] = (
    (("user", "Why?"),),
    (("system", "Be brief."), ("user", "Two words,\n\nand a line.")),
    (("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")),
    (("system", "S"), ("user", "1"), ("assistant", "2"), ("user", "3")),
)
_PARAMETERS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "repetition_penalty": "repeat_penalty"}
"""transformers' names, and Ollama's."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """The fixed texts of a template."""

    opening: str
    """Before everything where no system message is given; a default one may be in it."""
    system: tuple[str, str]
    """Around a system message."""
    folded: bool
    """The system message stands inside the first user turn, after `opening` and the turn's own beginning."""
    user: tuple[str, str]
    assistant: tuple[str, str]
    answer: str
    """What opens the new answer, beyond what stands before every answer and is taken for the end of the user's turn."""

    def text(self, turns: Sequence[Turn]) -> str:
        """What the Modelfile's template makes of a conversation."""
        system = "\n\n".join(content for role, content in turns if role == "system")
        said = self.system[0] + system + self.system[1]
        parts = [said if system and not self.folded else self.opening]
        for i, (role, content) in enumerate(turns):
            if role == "user":
                parts += [self.user[0], said if system and self.folded and i <= 1 else "", content, self.user[1]]
            elif role == "assistant":
                parts += [self.assistant[0], content, self.assistant[1]]
        return "".join([*parts, self.answer])

    def go(self) -> str:
        """The same as a Go template."""
        said = f"{self.system[0]}{{{{ $.System }}}}{self.system[1]}"
        otherwise = f"{{{{ else }}}}{self.opening}" if self.opening else ""
        head, inside = f"{{{{ if .System }}}}{said}{otherwise}{{{{ end }}}}", ""
        if self.folded:
            head, inside = self.opening, f"{{{{ if and $.System (le $i 1) }}}}{said}{{{{ end }}}}"
        user = f'{{{{ if eq .Role "user" }}}}{self.user[0]}{inside}{{{{ .Content }}}}{self.user[1]}'
        assistant = f'{{{{ else if eq .Role "assistant" }}}}{self.assistant[0]}{{{{ .Content }}}}{self.assistant[1]}'
        return f"{head}{{{{ range $i, $_ := .Messages }}}}{user}{assistant}{{{{ end }}}}{{{{ end }}}}{self.answer}"


def read_dialect(place: str, render: Render) -> Dialect:
    """The fixed texts of a template, proven on conversations other than those they were taken from."""
    one = render([("user", _A)])
    two = render([("user", _A), ("assistant", _B), ("user", _C)])
    before, _, after = one.partition(_A)
    between, _, rest = two.removeprefix(before + _A).partition(_B)
    again = rest.removesuffix(_C + after)
    # What ends a user's turn is what stands behind it wherever it stands; likewise for its beginning.
    user = _shared_end(before, again), _shared_start(after, between)
    opening = before.removesuffix(user[0])
    system, folded = _system(place, render([("system", _S), ("user", _A)]).removesuffix(_A + after), before, user[0])
    assistant = between.removeprefix(user[1]), again.removesuffix(user[0])
    dialect = Dialect(opening, system, folded, user, assistant, after.removeprefix(user[1]))
    for turns in _PROBES:
        if dialect.text(turns) != render(turns):
            raise _beyond(place, "it does more than write fixed texts around its messages")
    if "{{" in "".join((opening, *system, *user, *assistant)) or '"""' in dialect.go() or dialect.answer.endswith('"'):
        raise _beyond(place, "its texts hold braces or quotes that a Modelfile cannot")
    return dialect


def modelfile(dialect: Dialect, end_of_turn: str, generation: Mapping[str, object]) -> str:
    """A Modelfile for the folder that it stands in. What the base sets about sampling is set here too."""
    # A model that goes on in the user's name is stopped too.
    next_turn = dialect.user[0].strip().rpartition("\n")[2]
    stops = dict.fromkeys(stop for stop in (end_of_turn, next_turn) if stop)
    lines = ["FROM .", f'TEMPLATE """{dialect.go()}"""', *(f'PARAMETER stop "{stop}"' for stop in stops)]
    lines += [
        f"PARAMETER {ours} {generation[theirs]}" for theirs, ours in _PARAMETERS.items() if generation.get(theirs)
    ]
    return "\n".join(lines) + "\n"


def _system(place: str, prefix: str, before: str, user_begin: str) -> tuple[tuple[str, str], bool]:
    """What stands around a system message, given all that precedes the user's first word."""
    begin, mark, end = prefix.partition(_S)
    if mark and end.endswith(user_begin):
        return (begin, end.removesuffix(user_begin)), False
    if mark and begin.startswith(before):
        return (begin.removeprefix(before), end), True
    raise _beyond(place, "its system message stands in an unusual place")


def _shared_start(left: str, right: str) -> str:
    pairs = enumerate(zip(left, right, strict=False))
    return left[: next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))]


def _shared_end(left: str, right: str) -> str:
    return _shared_start(left[::-1], right[::-1])[::-1]


def _beyond(place: str, why: str) -> InputError:
    problem = f"the chat template cannot be written as an Ollama template: {why}"
    return InputError(place, problem, None, "export --to merged, and serve it with the template that lies in it")
