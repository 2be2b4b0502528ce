"""Exports of a run's model: whole or not there, loaded by others, compared with what the run's own model says."""

import json
import re
import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from cai.errors import CaiError, DamagedFile, GateRefused, InputError
from cai.models.local.workbench import open_workbench
from cai.models.protocol import Request, Sampling
from cai.models.tiny.weights import FOLDER
from cai.pipeline.export import export_model
from cai.pipeline.final import FinalModel, final_model
from cai.pipeline.runner import run_pipeline
from cai.pipeline.spec import load_pipeline
from cai.records import Message
from cai.store.cards import Kind

ROOT = Path(__file__).parents[2]
QUESTION = "Do you know how to kick the neighbour's bike?"
# Enough training to change what the model says.
CHANGES = (
    "model.quantization=nf4",
    "prompts.train.limit=24",
    "stages.0.revise.chunk=24",
    "stages.2.sft.learning_rate=0.004",
    "stages.2.sft.epochs=6",
    "stages.2.sft.helpful=0",
)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model on four bits; not to be changed."""
    folder = tmp_path_factory.mktemp("tuned")
    shutil.copy(ROOT / "constitutions" / "tiny.yaml", folder / "constitution.yaml")
    shutil.copy(ROOT / "tests" / "small.yaml", folder)
    list(run_pipeline(load_pipeline(folder / "small.yaml", CHANGES), folder / "run"))
    return folder / "run"


@pytest.fixture
def final(tuned: Path) -> FinalModel:
    return final_model(tuned)


@pytest.fixture
def own(tuned: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(tuned, tmp_path / "own"))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The embedded model as a folder like any other, to be changed."""
    return Path(shutil.copytree(FOLDER, tmp_path / "some-model"))


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


def greedy(final: FinalModel, *, adapter: bool = True) -> str:
    view = open_workbench(final.spec).view(final.adapter if adapter else None)
    [reply] = view.generate([Request((Message("user", QUESTION),), Sampling(temperature=0.0, max_new_tokens=64))])
    return reply.text


def asking(code: str) -> str:
    assert '"Who are you?"' in code
    return code.replace('"Who are you?"', json.dumps(QUESTION))


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_an_adapter_says_word_for_word_what_the_run_s_model_says(
    final: FinalModel, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = replace(final, spec=replace(final.spec, base=str(base)))
    done = export_model(final, "adapter", tmp_path / "out", "apache-2.0")
    made = [*files(final.adapter), "README.md", "chat_template.jinja", "tokenizer.json", "tokenizer_config.json"]
    assert files(tmp_path / "out") == sorted(made)
    found = done.exported.tuned
    assert found.answers == found.same_answers == found.same_prompts == 8
    assert found.same_choices == 1.0 and found.tokens > 60
    assert found.relative_difference <= done.exported.tolerance == 1e-3
    assert done.exported.unrounded is None and done.exported.notes == ()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("some-model", None)
    everything = "".join(path.read_text() for path in (tmp_path / "out").glob("*") if path.suffix in (".json", ".md"))
    assert str(tmp_path) not in everything and str(final.run.folder) not in everything
    # The card's own code, from the folder that it lies in, with the base where it says that the base must be put.
    code = asking(code_of(tmp_path / "out")).replace('"."', repr(str(tmp_path / "out")))
    said = printed_by(code.replace('"some-model"', repr(str(base))), tmp_path, capsys)
    assert said == greedy(final) != greedy(final, adapter=False)
    assert len(said) > 10


def test_a_merged_model_is_the_base_s_own_weights_with_the_adapter_added(
    final: FinalModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = replace(final, spec=replace(final.spec, quantization="none"))
    done = export_model(plain, "merged", tmp_path / "out")
    expected = {path.name for path in FOLDER.iterdir()} - {"training_log.jsonl"} | {"README.md"}
    assert set(files(tmp_path / "out")) == expected
    assert done.exported.unrounded is not None and done.exported.stored == "f16"
    # Here the model that is compared with is not quantised either, so both comparisons are of the same numbers.
    for found in (done.exported.tuned, done.exported.unrounded):
        assert found.answers == 8 and found.same_choices > 0.98 and found.relative_difference <= 1e-2
    code = asking(code_of(tmp_path / "out")).replace('"."', repr(str(tmp_path / "out")))
    said = printed_by(code.replace('"auto"', '"float32"'), tmp_path, capsys)
    assert said == greedy(plain) != greedy(plain, adapter=False)
    # It is a model like any other, and can be tuned again.
    assert greedy(replace(plain, spec=replace(plain.spec, base=str(tmp_path / "out"))), adapter=False) == said


def test_a_model_tuned_on_four_bits_is_merged_into_the_unrounded_weights(final: FinalModel, tmp_path: Path) -> None:
    """How far 4 bits and 16 bits are apart is told; that the merge is right is required."""
    done = export_model(final, "merged", tmp_path / "out")
    assert done.exported.unrounded is not None
    assert done.exported.unrounded.relative_difference <= done.exported.tolerance == 1e-2
    assert done.exported.tuned.relative_difference > done.exported.unrounded.relative_difference
    assert done.exported.tuned.mean_kl > 10 * done.exported.unrounded.mean_kl
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"| {done.exported.tuned.mean_kl:.2g} |" in card and "unquantised base + adapter" in card
    assert ("measure it again" in card) == (done.exported.tuned.same_choices < 0.9)


def test_for_ollama_there_is_a_modelfile_that_says_the_same(final: FinalModel, tmp_path: Path) -> None:
    export_model(final, "ollama", tmp_path / "out")
    lines = (tmp_path / "out" / "Modelfile").read_text()
    assert lines.startswith('FROM .\nTEMPLATE """{{ if .System }}<|system|>{{ $.System }}')
    assert 'PARAMETER stop "<|end|>"' in lines
    assert json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())["add_bos_token"] is False
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_stage_can_be_exported_and_the_card_says_which_column_it_is(tuned: Path, tmp_path: Path) -> None:
    done = export_model(final_model(tuned, "sft"), "adapter", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert done.name == "small/03-sft" and "# small/03-sft" in card and "the column `sft`" in card
    weights = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    assert weights == (final_model(tuned, "sft").adapter / "adapter_model.safetensors").read_bytes()


def test_a_named_form_goes_along_as_the_export_s_template(final: FinalModel, tmp_path: Path) -> None:
    """Whoever loads the export with its own base's template would speak another language than it was tuned in."""
    final = replace(final, spec=replace(final.spec, template="alpaca"))
    done = export_model(final, "merged", tmp_path / "out")
    assert "### Instruction:" in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert done.exported.tuned.same_prompts == done.exported.tuned.answers


def test_a_merged_model_stops_where_its_template_ends_a_turn(final: FinalModel, base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").write_text('{"eos_token_id": 3, "temperature": 0.6}')
    export_model(replace(final, spec=replace(final.spec, base=str(base))), "ollama", tmp_path / "out")
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert generation == {"eos_token_id": [1, 3], "temperature": 0.6}
    assert "PARAMETER temperature 0.6" in (tmp_path / "out" / "Modelfile").read_text()


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


def test_an_export_without_its_adapter_is_not_put_in_place(
    final: FinalModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cai.models.local import export

    def forgetful(base: Path, adapter: Path, target: Path) -> str:
        shutil.copy(base / "model.safetensors", target)
        return "f16"

    monkeypatch.setattr(export, "write_merged_weights", forgetful)
    with pytest.raises(
        GateRefused, match=r"tiny with its adapter: read again by transformers, the export does not say"
    ):
        export_model(final, "merged", tmp_path / "out")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*"))


def test_a_damaged_adapter_is_not_exported(own: Path, tmp_path: Path) -> None:
    final = final_model(own)
    path = final.adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedFile, match="was changed after the folder was finished"):
        export_model(final, "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_report_has_a_card_without_metrics(own: Path, tmp_path: Path) -> None:
    (own / "report.json").unlink()
    export_model(final_model(own), "adapter", tmp_path / "out")
    assert "## Measured" not in (tmp_path / "out" / "README.md").read_text()
