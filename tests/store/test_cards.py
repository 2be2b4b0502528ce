"""Model cards: front matter that the hub reads, and nothing that only this machine knows."""

from dataclasses import replace

import pytest

from cai.store.card_parts import Table
from cai.store.cards import Card, model_card
from cai.strict_yaml import parse_yaml

CARD = Card(
    kind="adapter",
    name="quickstart/05-dpo",
    base="org/some-model-1B",
    revision="0123456789abcdef0123456789abcdef01234567",
    licence=None,
    quantization="nf4",
    precision="auto",
    adapter="rank 16, α 32",
    stages=("revise: 8 of 8 rows", "dpo: 5 of 8 rows"),
    constitution="tiny 1.0.0",
    metrics=Table(("", "base", "tuned"), (("↓ harmful compliance", "90.0 %", "2.0 %"),)),
    column="tuned",
    agreement=Table(("compared with", "the tuned model (nf4)"), (("same greedy answers", "8 of 8"),)),
    tolerance="Logits may differ a little.",
    notes=(),
    versions="torch 2.10, peft 0.21",
)


def front_matter(text: str) -> dict[str, object]:
    data = parse_yaml(text.split("---\n")[1], "README.md").data
    assert isinstance(data, dict)
    return data


def test_the_front_matter_of_a_hub_model_names_base_library_and_licence() -> None:
    assert front_matter(model_card(CARD)) == {
        "base_model": "org/some-model-1B",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "other",
        "license_name": "that-of-the-base-model",
        "license_link": "https://huggingface.co/org/some-model-1B",
        "pipeline_tag": "text-generation",
        "tags": ["constitutional-ai", "rlaif", "lora", "cai"],
    }
    merged = front_matter(model_card(replace(CARD, kind="merged", licence="apache-2.0")))
    assert (merged["base_model_relation"], merged["library_name"]) == ("finetune", "transformers")
    assert merged["license"] == "apache-2.0" and "license_name" not in merged


def test_a_base_from_a_folder_is_no_hub_id() -> None:
    """The hub refuses a `base_model` that is none of its ids."""
    told = model_card(replace(CARD, base="my model", revision=None))
    assert "base_model" not in front_matter(told) and "license_link" not in front_matter(told)
    assert "`my model` (a model from a folder, not from the hub)" in told


@pytest.mark.parametrize("odd", ["yes", "1.0", "a: b", "#x", "'q", ""])
def test_a_licence_is_text_whatever_is_in_it(odd: str) -> None:
    found = front_matter(model_card(replace(CARD, licence=odd)))["license"]
    assert found == (odd or "other")


def test_a_card_tells_what_it_is_what_it_measured_and_how_it_was_made() -> None:
    told = model_card(CARD)
    assert "# quickstart/05-dpo" in told and "aligned to the constitution tiny 1.0.0" in told
    assert "[org/some-model-1B](https://huggingface.co/org/some-model-1B) (commit `0123" in told
    assert "| ↓ harmful compliance | 90.0 % | 2.0 % |" in told and "the column `tuned`" in told
    assert "| same greedy answers | 8 of 8 |" in told
    assert "1. revise: 8 of 8 rows\n2. dpo: 5 of 8 rows" in told
    assert model_card(replace(CARD, notes=("**Note:** odd.",))).count("**Note:** odd.") == 1


def test_code_says_how_to_load_each_kind() -> None:
    four_bit = model_card(CARD)
    assert 'bnb_4bit_quant_type="nf4"' in four_bit and "PeftModel.from_pretrained(base, FOLDER)" in four_bit
    assert "load_in_8bit=True" in model_card(replace(CARD, quantization="int8"))
    assert "DTYPE = torch.float32\n" in model_card(replace(CARD, precision="fp32"))
    assert "DTYPE = torch.bfloat16\n" in model_card(replace(CARD, precision="bf16"))
    assert "DTYPE = torch.bfloat16 if torch.cuda.is_available() else torch.float32\n" in four_bit
    assert "BitsAndBytesConfig" not in model_card(replace(CARD, quantization="none"))
    assert "peft" not in model_card(replace(CARD, kind="merged")).split("## Loading")[1].split("##")[0]
    assert "ollama create my-model -f Modelfile" in model_card(replace(CARD, kind="ollama"))
