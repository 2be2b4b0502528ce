"""Views of a workbench speak through recorded steps: each copy of weights through its own, and none is left behind."""

import pytest
import torch

from cai.errors import OutOfMemory
from cai.models.local.view import LocalModel
from cai.models.protocol import ChoiceRequest, Request, Sampling
from cai.records import Message
from tests.models.local.recording import Recorder


def test_a_view_speaks_through_recorded_steps_and_each_copy_of_its_weights_has_its_own(open_bench, tmp_path):
    """A trained adapter with its dense copy and without, the base, and a policy at rest between its updates."""
    bench, recorder = open_bench("nf4"), Recorder()
    recorder.steps = bench._bench.steps
    trainee = bench.trainee(None, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in trainee.parameters().items():
        if ".lora_B." in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    trainee.save(tmp_path)
    asked = [Request((Message("user", f"say {n}"),), Sampling(0.0, 1.0, 12), logprobs=True) for n in range(4)]

    def said(speaker: LocalModel) -> list[tuple[int, ...]]:
        bench.forget()
        return [reply.token_ids for reply in speaker.generate(asked)]

    steps = bench._bench.steps
    view, base = bench.view(tmp_path), bench.view()
    plain = said(view), said(base)
    assert recorder.recorded == 0, "nothing is recorded on a CPU"
    assert plain[0] != plain[1]
    steps._record = recorder
    assert (said(view), said(base), said(view)) == (*plain, plain[0])
    assert recorder.recorded == 2
    bench._bench.replicas.forget(view._adapter)
    assert said(view) == plain[0]
    assert recorder.recorded == 3, "a new copy lies somewhere else"
    with trainee.resting() as policy:
        assert said(policy) == plain[0]
        assert steps._room is not None
    assert steps._room is None, "training needs the room"
    recorded = recorder.recorded
    for parameter in trainee.parameters().values():
        parameter.data.mul_(1.5)
    assert said(trainee.view()) != plain[0]
    assert recorder.recorded == recorded, "a probe between updates takes no room from training"
    with trainee.resting() as policy:
        assert said(policy) == said(trainee.view())
    bench.release(view)
    assert not [key for key in steps._recorded if key[0][0] == view._adapter]


def test_a_policy_without_a_copy_is_read_as_its_updates_left_it(open_bench):
    """Updates change weights in place, so that what was recorded before reads what is there now."""
    bench, recorder = open_bench("nf4"), Recorder()
    recorder.steps = bench._bench.steps
    trainee = bench.trainee(None, seed=1)
    bench._bench.steps._record = recorder
    bench._bench.replicas._budget = 0
    asked = [Request((Message("user", "say it"),), Sampling(0.0, 1.0, 12))]
    with trainee.resting() as policy:
        before = policy.generate(asked)[0].token_ids
        for name, parameter in trainee.parameters().items():
            if ".lora_B." in name:
                parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(4)))
        bench.forget()
        after = policy.generate(asked)[0].token_ids
        assert recorder.recorded == 1
    bench.forget()
    assert before != after == trainee.view().generate(asked)[0].token_ids


def test_out_of_memory_lets_room_and_recordings_go(open_bench):
    bench = open_bench("none")
    steps, recorder = bench._bench.steps, Recorder()
    recorder.steps, steps._record = steps, recorder
    asked = [Request((Message("user", "say it"),), Sampling(0.0, 1.0, 4))]
    bench.view().generate(asked)
    assert steps._room is not None

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    bench.network.pass_over = full  # type: ignore[method-assign]
    with pytest.raises(OutOfMemory):
        bench.view().choose([ChoiceRequest((Message("user", "hi"),), ("a", "b"))])
    assert steps._room is None
    assert not steps._recorded
