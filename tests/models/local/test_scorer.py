"""Scalar heads beside policies on one base: what they score, what moves, and what plain transformers makes of them."""

import gc
import json
import weakref

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from cai.errors import InputError
from cai.models.local.logprobs import TokenRow
from cai.models.local.upstream import four_bit_layers, quantization_config
from cai.models.local.workbench import LoraSpec
from cai.models.protocol import Request, Sampling
from cai.records import Message

ROWS = [TokenRow((5, 6, 7, 8), (20, 21, 2)), TokenRow((9, 10), (22, 23, 24, 25, 2)), TokenRow((11,), (26,))]


def gradients(scorer) -> dict[str, torch.Tensor]:
    for parameter in scorer.parameters().values():
        parameter.grad = None
    (scorer.scores(ROWS).square().sum() + scorer.values(ROWS).values_BT.sum()).backward()
    return {name: parameter.grad.clone() for name, parameter in scorer.parameters().items()}


def one_step(scorer, rate=0.05) -> None:
    for (name, gradient), parameter in zip(gradients(scorer).items(), scorer.parameters().values(), strict=True):
        parameter.data += rate * (gradient.sign() if "lora_B" in name else gradient)


def trained(workbench, seed=1, start=None):
    scorer = workbench.scoring_trainee(start, seed)
    one_step(scorer)
    return scorer


def talk(workbench) -> None:
    workbench.view().generate([Request((Message("user", "hello"),), Sampling(max_new_tokens=5))])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("quantization", ["nf4", "none"])
@pytest.mark.parametrize("kind", ["Llama", "Qwen3", "Mistral", "Gemma2", "Phi3"])
def test_a_saved_scorer_gives_the_same_scores_in_plain_transformers_and_peft(
    open_bench, make_model, tmp_path, kind, quantization
):
    scorer = trained(open_bench(quantization, folder=make_model(kind)))
    scorer.save(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(
        make_model(kind),
        num_labels=1,
        dtype=torch.float32,
        quantization_config=quantization_config(quantization, torch.float32),
    )
    for layer in four_bit_layers(plain):
        layer.support_avx512bf16_for_cpu = False
    loaded = PeftModel.from_pretrained(plain, tmp_path).eval()
    assert type(loaded).__name__ == "PeftModelForSequenceClassification"
    with torch.no_grad():
        one_by_one = [loaded(torch.tensor([[*row.prompt_ids, *row.completion_ids]])).logits[0, 0] for row in ROWS]
    assert torch.allclose(scorer.scores(ROWS).detach(), torch.stack(one_by_one), atol=1e-5)
    assert scorer.scores(ROWS).detach().abs().max() > 1e-2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_scorer_folder_is_a_plain_sequence_classification_adapter(open_bench, tmp_path):
    scorer = trained(open_bench("nf4"))
    scorer.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    head = tensors["base_model.model.score.weight"]
    assert (head.shape, head.dtype) == ((1, 64), torch.float32)
    assert torch.equal(head, scorer.state()["score.weight"])
    assert len(tensors) == len(scorer.parameters()) == 1 + 2 * 2 * 7


def test_a_folder_that_peft_itself_saved_is_read_back(open_bench, make_model, tmp_path):
    """PEFT lists `classifier` and `score` as saved modules, whichever the model has."""
    workbench = open_bench("none")
    scorer = trained(workbench)
    scorer.save(tmp_path)
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text()) | {"modules_to_save": ["score", "classifier", "score"]}
    path.write_text(json.dumps(config))
    assert torch.equal(workbench.scorer(tmp_path).scores(ROWS), scorer.scores(ROWS).detach())


def test_a_frozen_scorer_gives_the_trained_scores_and_no_gradient(open_bench, tmp_path):
    workbench = open_bench("nf4")
    scorer = trained(workbench)
    scorer.save(tmp_path)
    frozen = workbench.scorer(tmp_path)
    assert torch.equal(frozen.scores(ROWS), scorer.scores(ROWS).detach())
    assert frozen.fingerprint == scorer.fingerprint
    assert not frozen.scores(ROWS).requires_grad and not frozen.values(ROWS).values_BT.requires_grad
    assert not any(parameter.requires_grad for parameter in frozen.parameters().values())


def test_values_stand_where_log_probabilities_are_read_and_end_in_the_score(open_bench):
    workbench = open_bench("nf4")
    scorer, policy = trained(workbench), workbench.trainee(None, seed=3)
    found, logps = scorer.values(ROWS), policy.policy_logps(ROWS)
    assert torch.equal(found.mask_BT, logps.mask_BT) and found.values_BT.shape == logps.logps_BT.shape
    assert torch.allclose(found.ends_B, scorer.scores(ROWS), atol=1e-6)
    assert found.values_BT[~found.mask_BT].abs().max() == 0
    # The value of the state before token t is the score of the row cut before it.
    row = ROWS[1]
    for t in range(1, len(row.completion_ids)):
        cut = TokenRow(row.prompt_ids, row.completion_ids[:t])
        assert torch.allclose(found.values_BT[1, t], scorer.scores([cut])[0], atol=1e-5)
    everything = (found.values_BT, found.ends_B, scorer.scores(ROWS))
    assert all(tensor.dtype == torch.float32 for tensor in everything)


def test_gradients_of_a_scorer_reach_its_adapter_and_head_and_nothing_else(open_bench):
    workbench = open_bench("nf4")
    policy, other = workbench.trainee(None, seed=2), trained(workbench, seed=5)
    for parameter in other.parameters().values():
        parameter.grad = None
    scorer = trained(workbench)
    found = gradients(scorer)
    assert all(gradient.abs().max() > 0 for name, gradient in found.items())
    assert all(p.grad is None for each in (policy, other) for p in each.parameters().values())
    own = {id(p) for p in scorer.parameters().values()}
    assert all(p.grad is None for p in workbench.network.model.parameters() if id(p) not in own)


def test_scores_before_generating_have_the_gradients_of_scores_after(open_bench):
    """The trap of docs/decisions/bitsandbytes-trap.md, through a scalar head."""
    for dense in (True, False):
        workbench = open_bench("nf4")
        if not dense:
            for layer in four_bit_layers(workbench.network.model):
                del layer.forward
        scorer = trained(workbench)
        before = gradients(scorer)
        talk(workbench)
        after = gradients(scorer)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert max(gradient.abs().max() for gradient in before.values()) > 1e-2


def test_a_head_starts_as_drawn_or_as_zero_and_goes_on_where_its_folder_stands(open_bench, tmp_path):
    workbench = open_bench("nf4")
    drawn, again = workbench.scoring_trainee(None, 4), workbench.scoring_trainee(None, 4)
    zero, other = workbench.scoring_trainee(None, 4, head="zero"), workbench.scoring_trainee(None, 5)
    heads = [each.state()["score.weight"] for each in (drawn, again, zero, other)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[3])
    assert abs(heads[0].std().item() * 65**0.5 - 1) < 0.3
    assert zero.scores(ROWS).abs().max() == 0
    one_step(drawn)
    drawn.save(tmp_path / "reward")
    value = workbench.scoring_trainee(tmp_path / "reward", 9, head="zero")
    assert torch.equal(value.scores(ROWS), drawn.scores(ROWS))
    policy = workbench.trainee(None, seed=1)
    policy.save(tmp_path / "sft")
    fresh = workbench.scoring_trainee(tmp_path / "sft", 4)
    assert torch.equal(fresh.state()["score.weight"], heads[0])
    key = next(iter(policy.state()))
    assert torch.equal(fresh.state()[key], policy.state()[key])


def test_ten_roles_live_on_one_base_and_answer_as_if_each_were_alone(open_bench, tmp_path):
    workbench = open_bench("nf4")
    count = sum(1 for _ in workbench.network.model.parameters())
    policies = [workbench.trainee(None, seed=i) for i in range(5)]
    scorers = [trained(workbench, seed=i) for i in range(5)]
    for i, policy in enumerate(policies):
        for name, parameter in policy.parameters().items():
            if "lora_B" in name:
                parameter.data += 0.01 * (i + 1)
    logps = [policy.policy_logps(ROWS).logps_BT.detach() for policy in policies]
    scores = [scorer.scores(ROWS).detach() for scorer in scorers]
    assert all(not torch.equal(logps[0], other) for other in logps[1:])
    assert all(not torch.equal(scores[0], other) for other in scores[1:])
    for i in (3, 0, 4, 1, 2):
        assert torch.equal(scorers[i].scores(ROWS).detach(), scores[i])
        assert torch.equal(policies[i].policy_logps(ROWS).logps_BT.detach(), logps[i])
    before = gradients(scorers[0])
    alone = open_bench("nf4").scoring_trainee(None, seed=2)
    alone.load_state(scorers[2].state())
    assert torch.equal(alone.scores(ROWS).detach(), scores[2])
    for role in (*policies[1:], *scorers[1:]):
        workbench.release(role)
    assert torch.equal(policies[0].policy_logps(ROWS).logps_BT.detach(), logps[0])
    assert torch.equal(scorers[0].scores(ROWS).detach(), scores[0])
    after = gradients(scorers[0])
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in policies[0].parameters().values())
    workbench.release(policies[0])
    workbench.release(scorers[0])
    assert sum(1 for _ in workbench.network.model.parameters()) == count


def test_a_released_role_leaves_neither_weights_nor_gradients_in_memory(open_bench, tmp_path):
    workbench = open_bench("nf4")
    keep = workbench.trainee(None, seed=1)
    keep.save(tmp_path)
    gone = [trained(workbench), workbench.trainee(tmp_path, seed=2)]
    weights = [weakref.ref(p) for role in gone for p in role.parameters().values()]
    weights.append(weakref.ref(gone[0].parameters()["score.weight"].grad))
    view = workbench.view(tmp_path)
    for role in (*gone, view):
        workbench.release(role)
    with pytest.raises(AssertionError, match="was released"):
        gone[1].policy_logps(ROWS)
    with pytest.raises(AssertionError, match="was released"):
        view.generate([Request((Message("user", "hi"),), Sampling(max_new_tokens=1))])
    del gone, role
    gc.collect()
    assert [ref() for ref in weights if ref() is not None] == []
    assert workbench.view(tmp_path) is not view


def test_releasing_the_only_role_leaves_the_base(open_bench):
    workbench = open_bench("nf4")
    first = workbench.trainee(None, seed=1)
    base = first.reference_logps(ROWS).logps_BT
    workbench.release(first)
    assert torch.equal(workbench.trainee(None, seed=2).reference_logps(ROWS).logps_BT, base)


def test_dropout_moves_a_scorer_only_where_asked_and_repeats_with_its_seed(open_bench):
    scorer = trained(open_bench("nf4", lora=LoraSpec(dropout=0.5)))
    plain = scorer.scores(ROWS).detach()
    first, again = (scorer.scores(ROWS, dropout_seed=3).detach() for _ in range(2))
    assert torch.equal(first, again) and not torch.allclose(first, plain, atol=1e-4)
    assert torch.equal(scorer.scores(ROWS).detach(), plain)


def test_a_state_brings_a_scorer_back(open_bench):
    scorer = trained(open_bench("nf4"))
    state, scores, fingerprint = scorer.state(), scorer.scores(ROWS).detach(), scorer.fingerprint
    one_step(scorer)
    assert scorer.fingerprint != fingerprint and not torch.equal(scorer.scores(ROWS), scores)
    scorer.load_state(state)
    assert torch.equal(scorer.scores(ROWS).detach(), scores) and scorer.fingerprint == fingerprint
    with pytest.raises(ValueError, match=r"score.weight has shape \[2, 64\], expected \[1, 64\]"):
        scorer.load_state(state | {"score.weight": torch.zeros(2, 64)})


def test_a_folder_that_plays_another_part_is_refused(open_bench, tmp_path):
    workbench = open_bench("none")
    workbench.trainee(None, seed=1).save(tmp_path / "policy")
    trained(workbench).save(tmp_path / "reward")
    with pytest.raises(InputError, match=r"policy: has no scalar head, so it gives no scores; give a trained"):
        workbench.scorer(tmp_path / "policy")
    for speaks in (workbench.view, lambda folder: workbench.trainee(folder, seed=1)):
        with pytest.raises(InputError, match=r"reward: is a scorer, which gives no answers; give an adapter"):
            speaks(tmp_path / "reward")


def test_a_head_of_another_width_and_a_lost_head_are_refused(open_bench, tmp_path):
    workbench = open_bench("none")
    trained(workbench).save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"base_model.model.score.weight": torch.zeros(3, 64)}, path)
    with pytest.raises(InputError, match=r"score.weight has shape \[3, 64\], expected \[1, 64\]"):
        workbench.scorer(tmp_path)
    save_file({name: t for name, t in tensors.items() if "score" not in name}, path)
    with pytest.raises(InputError, match=r"has no score.weight, and adapter_config.json says task_type SEQ_CLS"):
        workbench.scorer(tmp_path)
    assert not any(".lora_" in name for name, _ in workbench.network.model.named_parameters() if "scorer-2" in name)


def test_an_adapter_names_its_base_without_a_path_of_this_machine(open_bench, make_model, tmp_path):
    open_bench("none").trainee(None, seed=1).save(tmp_path)
    named = json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert named == make_model().name and "/" not in named
