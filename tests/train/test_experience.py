"""What a round is made of: its answers, what is known of them, their price, and what is carried on."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cai.models.local.logprobs import TokenRow
from cai.models.local.workbench import Workbench
from cai.train.experience import begin_round, drift
from cai.train.rollout import PromptRow
from cai.train.rounds import Held, adapted, minibatch, plan_updates
from tests.train.acting import NewActor, config, policy_of, scene_of


def test_rounds_take_every_prompt_once_and_updates_every_answer_of_a_pass_once() -> None:
    ids = [f"prompt-{i}" for i in range(10)]
    for method, orders in (("grpo", 1), ("ppo", 2)):
        settings = config(method, rollout_epochs=2, minibatches=3, epochs=2)
        updates = plan_updates(settings, ids)
        assert len(updates) == 2 * 3 * 2 * 3
        rounds = {update.round: update.prompts for update in updates}
        assert list(rounds) == [1, 2, 3, 4, 5, 6]
        assert [sorted(rounds[1] + rounds[2] + rounds[3]), len(rounds[3])] == [list(range(10)), 2]
        passes = [
            tuple(a for u in updates if (u.round, u.epoch) == (1, epoch) for a in minibatch(settings, u, ids))
            for epoch in range(2)
        ]
        assert [sorted(answers) for answers in passes] == [list(range(16))] * 2
        assert len(set(passes)) == orders
        assert all(
            [answers[i : i + 4] == tuple(range(answers[i], answers[i] + 4)) for i in (0, 4, 8, 12)]
            for answers in passes
        )


@pytest.mark.parametrize("temperature", [0.3, 1.5])
def test_the_entropy_that_is_told_is_that_of_the_tempered_policy(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path, temperature: float
) -> None:
    settings = config("rloo", temperature=temperature, samples=16, max_new_tokens=1)
    trainee = policy_of(new_actor("grpo"))
    begun = begin_round(
        scene_of(settings, prompts[:4], trainee, tmp_path), plan_updates(settings, [p.id for p in prompts[:4]])[0], 0.0
    )
    entropies = []
    for prompt in prompts[:4]:
        every = [TokenRow(prompt.prompt_ids, (token,)) for token in range(64)]
        logps = trainee.reference_logps(every, temperature=temperature).logps_BT[:, 0]
        entropies.append(-(logps.exp() * logps).sum().item())
    assert drift(begun.round)["entropy"] == pytest.approx(sum(entropies) / 4, rel=0.2)


def test_answers_without_an_end_are_treated_as_asked_and_counted(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    expected = {"keep": 5.0, "replace": -1.0, "reduce": 4.0}
    for how, reward in expected.items():
        settings = config("rloo", max_new_tokens=1, unfinished=how, batch_size=8)
        scene = replace(scene_of(settings, prompts, new_actor("rloo"), tmp_path), reward=lambda rs: [5.0] * len(rs))
        begun = begin_round(scene, plan_updates(settings, [p.id for p in prompts])[0], 0.0)
        cut = begun.metrics["completions/clipped_ratio"]
        ended = [row.completion_ids == (2,) for row in begun.round.rows]
        assert cut == 1 - sum(ended) / len(ended) > 0.5
        assert begun.metrics["reward"] == pytest.approx(cut * reward + (1 - cut) * 5.0)


def test_a_reward_behind_the_answer_gives_ended_ones_one_more_value(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    for score_at, more in (("last", 0), ("after", 1)):
        settings = config("ppo", score_at=score_at, max_new_tokens=2, samples=16)
        scene = scene_of(settings, prompts, new_actor("ppo"), tmp_path)
        now = begin_round(scene, plan_updates(settings, [p.id for p in prompts])[0], 0.0).round
        lengths = [len(row.completion_ids) for row in now.rows]
        ended = [row.completion_ids[-1] == 2 for row in now.rows]
        assert any(ended)
        wanted = [n + more * end for n, end in zip(lengths, ended, strict=True)]
        assert now.value_mask_NU.sum(dim=1).tolist() == wanted
        assert now.returns_NU[~now.value_mask_NU].any().item() is False


def test_every_pass_divides_its_logits_by_the_temperature(acting_bench: Workbench, new_actor: NewActor) -> None:
    trainee, row = policy_of(new_actor("grpo")), TokenRow((5, 9, 12), (20, 30, 2))
    logits_TV = acting_bench.answer_logits(None, row)
    for temperature in (0.5, 1.0, 2.0):
        expected = (logits_TV / temperature).log_softmax(-1)[range(3), list(row.completion_ids)]
        for of in (trainee.policy_logps, trainee.reference_logps):
            torch.testing.assert_close(of([row], temperature=temperature).logps_BT[0], expected, rtol=1e-5, atol=1e-5)


def test_the_price_of_divergence_adapts_within_bounds() -> None:
    """Half of 0.2 too far for 100 of 1000 answers: β grows by one hundredth; far too far counts as 0.2."""
    assert adapted(0.5, 1.1, 100, 1.0, 1000) == pytest.approx(0.5 * 1.01)
    assert adapted(0.5, 9.0, 100, 1.0, 1000) == pytest.approx(0.5 * 1.02)
    assert adapted(0.5, 0.0, 100, 1.0, 1000) == pytest.approx(0.5 * 0.98)
    assert adapted(0.5, 9.0, 100, None, 1000) == 0.5


def test_what_is_carried_comes_back_as_it_was(new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path) -> None:
    settings = config("ppo")
    scene = scene_of(settings, prompts, new_actor("ppo"), tmp_path)
    held, other = Held(prompts, 0.3), Held(prompts, 9.0)
    other.load_state(held.state())
    assert (other.price, other.round) == (0.3, None)
    held.round = begin_round(scene, plan_updates(settings, [p.id for p in prompts])[0], 0.3).round
    other.load_state(held.state())
    assert other.round is not None
    assert (other.round.ids, other.round.rows, other.round.price) == (held.round.ids, held.round.rows, 0.3)
    assert all(torch.equal(value, held.state()[name]) for name, value in other.state().items())
