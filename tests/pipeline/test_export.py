"""Exports of a run's model: whole or not there, loaded by others, compared with what the run's own model says."""

import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from cai.errors import CaiError, DamagedFile, GateRefused, InputError
from cai.models.local.workbench import open_workbench
from cai.models.protocol import Request, Sampling
from cai.pipeline.export import export_model
from cai.pipeline.final import FinalModel, final_model
from cai.records import Message
from cai.store.cards import Kind

QUESTION = "Who are you?"


@pytest.fixture
def final(copied: Path) -> FinalModel:
    return final_model(copied)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def code_of(folder: Path) -> str:
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return str(code)


def printed_by(code: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (folder / "card.py").write_text(code)
    capsys.readouterr()
    runpy.run_path(str(folder / "card.py"))
    return capsys.readouterr().out.removesuffix("\n")


def greedy(final: FinalModel, **changes: object) -> str:
    bench = open_workbench(replace(final.spec, **changes))
    sampling = Sampling(temperature=0.0, max_new_tokens=64)
    [reply] = bench.view(final.adapter).generate([Request((Message("user", QUESTION),), sampling)])
    return reply.text


def test_an_adapter_says_word_for_word_what_the_run_s_model_says(
    final: FinalModel, tmp_path: Path, random_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = export_model(final, "adapter", tmp_path / "out", "apache-2.0")
    made = [*files(final.adapter), "README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert files(tmp_path / "out") == sorted(made)
    found = done.exported.tuned
    assert found.answers == found.same_answers == found.same_prompts == 8 and found.same_choices == 1.0
    assert found.relative_difference <= done.exported.tolerance == 1e-3
    assert done.exported.unrounded is None and done.exported.notes == ()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == (random_model.name, None)
    everything = "".join(path.read_text() for path in (tmp_path / "out").glob("*") if path.suffix in (".json", ".md"))
    assert str(random_model.parent) not in everything and str(tmp_path) not in everything
    # The card's own code, from the folder that it lies in, with the base where it says that the base must be put.
    code = code_of(tmp_path / "out").replace('"."', repr(str(tmp_path / "out")))
    said = printed_by(code.replace(f'"{random_model.name}"', repr(str(random_model))), tmp_path, capsys)
    assert said == greedy(final)


def test_a_merged_model_is_the_base_s_own_weights_with_the_adapter_added(
    final: FinalModel, tmp_path: Path, random_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = export_model(final, "merged", tmp_path / "out")
    base = [path.name for path in random_model.iterdir()]
    assert set(files(tmp_path / "out")) == {*base, "README.md"}
    assert done.exported.unrounded is not None and done.exported.stored == "f32"
    # The run's base is not quantised, so both comparisons are with the same numbers.
    for found in (done.exported.tuned, done.exported.unrounded):
        assert found.same_answers == found.answers == 8 and found.relative_difference <= 1e-3
    before, after = load_file(random_model / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert any(not before[name].equal(after[name]) for name in before)
    code = code_of(tmp_path / "out").replace('"."', repr(str(tmp_path / "out")))
    assert printed_by(code, tmp_path, capsys) == greedy(final)
    # It is a model like any other, and can be tuned again.
    bench = open_workbench(replace(final.spec, base=str(tmp_path / "out")))
    [reply] = bench.view().generate(
        [Request((Message("user", QUESTION),), Sampling(temperature=0.0, max_new_tokens=64))]
    )
    assert reply.text == greedy(final)


def test_a_model_tuned_on_four_bits_is_merged_into_the_unrounded_weights(final: FinalModel, tmp_path: Path) -> None:
    """How far 4 bits and 16 bits are apart is told; that the merge is right is required."""
    final = replace(final, spec=replace(final.spec, quantization="nf4"))
    done = export_model(final, "merged", tmp_path / "out")
    assert done.exported.unrounded is not None
    assert done.exported.unrounded.relative_difference <= 1e-3
    assert done.exported.tuned.relative_difference > 1e-2
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| {done.exported.tuned.mean_kl:.2g} |" in card and "unquantised base + adapter" in card
    if done.exported.tuned.same_choices < 0.9:
        assert "measure it again before it is used" in card


def test_for_ollama_there_is_a_modelfile_that_says_the_same(final: FinalModel, tmp_path: Path) -> None:
    export_model(final, "ollama", tmp_path / "out")
    lines = (tmp_path / "out" / "Modelfile").read_text()
    assert lines.startswith('FROM .\nTEMPLATE """{{ if .System }}<|im_start|>system\n')
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["add_bos_token"] is False
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_stage_can_be_exported_and_the_card_says_which_column_it_is(copied: Path, tmp_path: Path) -> None:
    done = export_model(final_model(copied, "sft"), "adapter", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert done.name == "small/03-sft" and "# small/03-sft" in card and "the column `sft`" in card
    weights = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert weights == (final_model(copied, "sft").adapter / "adapter_model.safetensors").read_bytes()


def test_a_named_form_goes_along_as_the_export_s_template(final: FinalModel, tmp_path: Path) -> None:
    """Whoever loads the export with its own base's template would speak another language than it was tuned in."""
    final = replace(final, spec=replace(final.spec, template="alpaca"))
    done = export_model(final, "merged", tmp_path / "out")
    assert "### Instruction:" in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert done.exported.tuned.same_prompts == done.exported.tuned.answers


def test_a_merged_model_stops_where_its_template_ends_a_turn(final: FinalModel, tmp_path: Path) -> None:
    base = Path(shutil.copytree(final.spec.base, tmp_path / "base"))
    (base / "generation_config.json").write_text('{"eos_token_id": 3}')
    final = replace(final, spec=replace(final.spec, base=str(base)))
    export_model(final, "merged", tmp_path / "out")
    ends = json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"]
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    end = next(token["id"] for token in tokenizer["added_tokens"] if token["content"] == "<|im_end|>")
    assert ends == sorted({3, end})


@pytest.mark.parametrize("to", ["adapter", "merged", "ollama"])
def test_nothing_is_overwritten_and_nothing_half_done_is_left(final: FinalModel, tmp_path: Path, to: Kind) -> None:
    out = tmp_path / "parent" / "out"
    out.mkdir(parents=True)
    with pytest.raises(InputError, match="is already there, and an export overwrites nothing; name a new folder"):
        export_model(final, to, out)
    assert files(out) == []
    out.rmdir()
    broken = replace(final, spec=replace(final.spec, template="chat-ml"))
    with pytest.raises(InputError, match="there is no chat form of this name"):
        export_model(broken, to, out)
    assert files(out.parent) == []


def test_a_place_that_cannot_be_written_is_told(final: FinalModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaiError, match=r"file/out: cannot be written \(.*\); check the folder and the disk"):
        export_model(final, "adapter", tmp_path / "file" / "out")


def test_an_export_that_says_something_else_is_not_put_in_place(
    final: FinalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cai.models.local import export

    def wrong(base: Path, adapter: Path, target: Path) -> str:
        """The base as it is: an adapter that was forgotten."""
        tensors = load_file(base / "model.safetensors")
        save_file({name: t * 1.05 for name, t in tensors.items()}, target / "model.safetensors", {"format": "pt"})
        return "f32"

    monkeypatch.setattr(export, "write_merged_weights", wrong)
    with pytest.raises(GateRefused, match="read again by transformers, the export does not say what it should"):
        export_model(final, "merged", tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_a_damaged_adapter_is_not_exported(final: FinalModel, tmp_path: Path) -> None:
    path = final.adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFile, match="was changed after the folder was finished"):
        export_model(final, "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_report_has_a_card_without_metrics(copied: Path, tmp_path: Path) -> None:
    (copied / "report.json").unlink()
    export_model(final_model(copied), "adapter", tmp_path / "out")
    assert "## Measured" not in (tmp_path / "out" / "README.md").read_text()
