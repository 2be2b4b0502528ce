"""Chat templates as Ollama templates: what a Go template renders is what the chat template renders."""

import re
from collections.abc import Sequence

import pytest

from cai.errors import InputError
from cai.models.local.dialect import Dialect, Render, Turn, modelfile, read_dialect
from cai.models.local.templates import NAMED_FORMS, compiled

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
TINY = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n\n</think>\n\n{% endif %}"
)
TEMPLATES = {
    "tiny": TINY,
    "llama-3": LLAMA_3,
    "default system": DEFAULT_SYSTEM,
    **{name: form.source for name, form in NAMED_FORMS.items()},
}
CONVERSATIONS: list[list[Turn]] = [
    [("user", "Hello")],
    [("system", "Be kind."), ("user", "What is\n\n[a] line?")],
    [("user", "a"), ("assistant", "b"), ("user", "c")],
    [("system", "x"), ("user", "a"), ("assistant", "b, then\nc"), ("user", "d"), ("assistant", "e"), ("user", "f")],
]


def render_with(source: str) -> Render:
    template = compiled(source, "2026-01-01")

    def render(turns: Sequence[Turn]) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return template(**TOKENS, messages=messages, add_generation_prompt=True)

    return render


def go(template: str, turns: Sequence[Turn]) -> str:
    """As much of Go's text/template as these templates use: if, else, else if, end, range, fields, eq, and, le."""
    pieces = re.split(r"(\{\{ .*? \}\})", template)
    system = "\n\n".join(content for role, content in turns if role == "system")

    def holds(test: str, i: int, turn: Turn) -> bool:
        if test == ".System":
            return bool(system)
        if test == "and $.System (le $i 1)":
            return bool(system) and i <= 1
        found = re.fullmatch(r'eq \.Role "(\w+)"', test)
        assert found, test
        return turn[0] == found[1]

    def block(at: int, i: int, turn: Turn, wanted: bool) -> tuple[str, int]:
        """The text from a piece on, to the `end` or `else` that closes it, and where that stands."""
        out = ""
        while at < len(pieces):
            piece = pieces[at]
            if not piece.startswith("{{"):
                out, at = out + piece, at + 1
                continue
            action = piece[3:-3]
            if action in ("end", "else") or action.startswith("else if "):
                return (out if wanted else ""), at
            if action.startswith("if "):
                text, at = branches(at, i, turn, action[3:])
                out += text
            elif action == "range $i, $_ := .Messages":
                parts = [block(at + 1, k, each, wanted) for k, each in enumerate(turns)]
                out, at = out + "".join(part for part, _ in parts), parts[0][1] + 1
            else:
                out += {".System": system, "$.System": system, ".Content": turn[1]}[action]
                at += 1
        return (out if wanted else ""), at

    def branches(at: int, i: int, turn: Turn, test: str) -> tuple[str, int]:
        met = holds(test, i, turn)
        text, at = block(at + 1, i, turn, met)
        while pieces[at] != "{{ end }}":
            action = pieces[at][3:-3]
            chosen = not met and (action == "else" or holds(action.removeprefix("else if "), i, turn))
            more, at = block(at + 1, i, turn, chosen)
            met, text = met or chosen, text + more
        return text, at + 1

    return block(0, 0, ("", ""), True)[0]


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_go_template_renders_what_the_chat_template_renders(name: str) -> None:
    render = render_with(TEMPLATES[name])
    dialect = read_dialect("model", render)
    for turns in CONVERSATIONS:
        assert go(dialect.go(), turns) == dialect.text(turns) == render(turns), turns


def test_texts_are_found_where_they_stand() -> None:
    found = read_dialect("model", render_with(TINY))
    assert found == Dialect(
        "", ("<|system|>", "<|end|>"), False, ("<|user|>", "<|end|><|assistant|>"), ("", "<|end|>"), ""
    )
    llama = read_dialect("model", render_with(NAMED_FORMS["llama-2"].source))
    assert (llama.folded, llama.system) == (True, ("<<SYS>>\n", "\n<</SYS>>\n\n"))
    assert (llama.user, llama.assistant, llama.answer) == (("<s>[INST] ", " [/INST]"), (" ", " </s>"), "")
    thinking = read_dialect("model", render_with(DEFAULT_SYSTEM))
    assert thinking.opening.startswith("<|im_start|>system\nYou help.")
    assert thinking.answer == "<think>\n\n</think>\n\n"
    assert 'PARAMETER stop "<|im_start|>user"' in modelfile(thinking, "<|im_end|>", {})
    alpaca = read_dialect("model", render_with(NAMED_FORMS["alpaca"].source))
    assert alpaca.user == ("\n\n### Instruction:\n", "\n\n### Response:\n") and not alpaca.folded


@pytest.mark.parametrize(
    "source",
    [
        # Counts its turns.
        "{% for m in messages %}{{ loop.index ~ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}",
        # Writes the last user turn in another way.
        "{% for m in messages %}{{ ('LAST ' if loop.last else '') ~ m.role ~ m.content ~ ';' }}{% endfor %}",
        # Upper case, which no fixed text around a message is.
        "{% for m in messages %}{{ m.role ~ ':' ~ m.content | upper ~ ';' }}{% endfor %}",
        # Puts the system message before the last user turn.
        (
            "{% set s = messages[0] %}{% for m in messages if m.role != 'system' %}"
            "{{ (s.content if loop.last and s.role == 'system' else '') ~ '[' ~ m.role ~ ']' ~ m.content }}{% endfor %}"
        ),
        "{% for m in messages %}{{ '{{' ~ m.role ~ '}}' ~ m.content ~ ';' }}{% endfor %}",
    ],
)
def test_a_template_that_does_more_is_refused(source: str) -> None:
    with pytest.raises(InputError, match=r"model: the chat template cannot be written .*; export --to merged"):
        read_dialect("model", render_with(source))


def test_a_modelfile_has_template_stops_and_what_the_base_sets_about_sampling() -> None:
    text = modelfile(
        read_dialect("model", render_with(TINY)), "<|end|>", {"temperature": 0.6, "top_k": 20, "top_p": None}
    )
    lines = text.splitlines()
    assert lines[0] == "FROM ."
    assert lines[1].startswith('TEMPLATE """{{ if .System }}<|system|>') and lines[1].endswith(
        '<|end|>{{ end }}{{ end }}"""'
    )
    assert lines[2:] == [
        'PARAMETER stop "<|end|>"',
        'PARAMETER stop "<|user|>"',
        "PARAMETER temperature 0.6",
        "PARAMETER top_k 20",
    ]
