"""Dense copies of an adapted model say what the adapted model says, and leave nothing behind."""

import pytest
import torch
from peft.tuners.lora import LoraLayer

from cai.models.local.replica import Replicas
from cai.models.protocol import ChoiceRequest, Request, Sampling
from cai.records import Message


@pytest.fixture
def adapted(open_bench, tmp_path):
    """A workbench and the folder of an adapter that changes what it says."""

    def make(quantization: str):
        bench = open_bench(quantization)
        trainee = bench.trainee(None, seed=1)
        generator = torch.Generator().manual_seed(2)
        for name, parameter in trainee.parameters().items():
            if ".lora_B." in name:
                parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        trainee.save(tmp_path / quantization)
        bench.release(trainee)
        return bench, tmp_path / quantization

    return make


@pytest.mark.parametrize("quantization", ["nf4", "int8", "none"])
def test_an_adapter_says_the_same_through_its_dense_copy(adapted, quantization):
    bench, folder = adapted(quantization)
    view = bench.view(folder)
    asked = [ChoiceRequest((Message("user", f"say {n}"),), ("yes", "no")) for n in range(4)]
    dense = view.choose(asked)
    bench._bench.replicas._budget = 0
    bench._bench.replicas.forget(view._adapter)
    plain = view.choose(asked)
    for a, b in zip(dense, plain, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=2e-4)
    assert bench.view().choose(asked)[0].logprobs != pytest.approx(plain[0].logprobs, abs=1e-2)


def test_a_replica_changes_no_layer_once_the_answer_is_there(adapted):
    bench, folder = adapted("nf4")
    network = bench.network
    bench.view(folder)
    names = [(n, vars(m).get("forward")) for n, m in network.model.named_modules()]
    bench.view(folder).generate([Request((Message("user", "hi"),), Sampling(max_new_tokens=4))])
    assert any(isinstance(m, LoraLayer) for m in network.model.modules())
    assert [(n, vars(m).get("forward")) for n, m in network.model.named_modules()] == names


def test_a_model_in_training_is_never_copied(adapted):
    bench, folder = adapted("nf4")
    trainee = bench.trainee(folder, seed=3)
    before = trainee.view().choose([ChoiceRequest((Message("user", "hi"),), ("a", "b"))])
    for parameter in trainee.parameters().values():
        parameter.data.mul_(1.5)
    assert trainee.view().choose([ChoiceRequest((Message("user", "hi"),), ("a", "b"))]) != before


def test_a_released_adapter_leaves_no_copy_and_nothing_kept(adapted):
    bench, folder = adapted("nf4")
    view, words = bench.view(folder), "one two three four five six seven eight nine ten eleven twelve"
    for speaker in (view, bench.view()):
        speaker.generate([Request((Message("user", words),), Sampling(max_new_tokens=4))])
    replicas, kept = bench._bench.replicas, bench._bench.kept
    assert list(replicas._held) == [view._adapter]
    assert {owner for owner, _ in kept._entries} == {"", view._adapter}
    bench.release(view)
    assert not replicas._held
    assert {owner for owner, _ in kept._entries} == {""}
    with pytest.raises(AssertionError, match="was released"):
        view.choose([ChoiceRequest((Message("user", "hi"),), ("a", "b"))])
    assert not replicas._held


def test_training_takes_the_room_of_replicas_and_of_what_is_kept(adapted):
    bench, folder = adapted("nf4")
    words = "one two three four five six seven eight nine ten eleven twelve"
    for role in (lambda: bench.trainee(folder, 1), lambda: bench.scoring_trainee(folder, 1)):
        bench.view(folder).generate([Request((Message("user", words),), Sampling(max_new_tokens=4))])
        assert bench._bench.replicas._held
        assert bench._bench.kept._entries
        role()
        assert not bench._bench.replicas._held
        assert not bench._bench.kept._entries


def test_only_as_many_copies_as_the_budget_has_room_for(adapted):
    bench, folder = adapted("nf4")
    bench.view(folder)
    one = Replicas(bench.network.model, 0)._size()
    replicas = Replicas(bench.network.model, int(1.5 * one))
    name = bench.view(folder)._adapter
    with replicas.active(name):
        assert list(replicas._held) == [name]
    replicas._held["older"] = replicas._held.pop(name)
    with replicas.active(name):
        assert list(replicas._held) == [name]


def test_a_copy_for_which_there_is_no_memory_after_all_is_done_without(adapted, caplog):
    bench, folder = adapted("nf4")
    view, replicas = bench.view(folder), bench._bench.replicas
    asked = [ChoiceRequest((Message("user", "say it"),), ("yes", "no"))]
    wanted = view.choose(asked)[0].logprobs
    replicas.clear()

    def full(adapter: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    replicas._made = full
    assert view.choose(asked)[0].logprobs == pytest.approx(wanted, abs=2e-4)
    assert not replicas._held
    assert "generation goes on without a dense copy" in caplog.text
