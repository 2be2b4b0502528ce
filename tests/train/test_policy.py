"""The policy methods on a real, small Llama: what rises, what a round is made of, and going on after anything."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch

from cai.errors import CaiError, InputError, Interrupted
from cai.models.local.logprobs import TokenLogps, TokenRow
from cai.models.local.roles import Trainee
from cai.models.local.workbench import Workbench
from cai.train.actor_critic import ActorCritic
from cai.train.experience import begin_round, drift
from cai.train.optimise import Step
from cai.train.policy import policy_gradient, train_policy
from cai.train.rollout import PromptRow
from cai.train.rounds import plan_updates
from tests.train.acting import NewActor, config, lower_letters, never, policy_of, scene_of

METHODS = ("ppo", "rloo", "grpo")
ALWAYS = {"loss", "grad_norm", "learning_rate", "tokens", "ratio", "clip_ratio"}
LOOKS = ("mean_length", "clipped_ratio", "repetition", "distinct", "shared")
ANSWERS = {f"completions/{name}" for name in LOOKS}
BEGIN = {"reward", "reward_std", "kl", "kl_coefficient", "entropy", "ratio/first", *ANSWERS}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def nudge(actor: Trainee | ActorCritic) -> None:
    """Take policy and value away from where they sampled."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in actor.parameters().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("method", METHODS)
def test_training_raises_the_reward_and_the_opposite_reward_lowers_it(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path, method: str
) -> None:
    """Judged by fresh answers of the trained policy, on average over rounds, not by the trainer's sign of anything."""
    settings = config(method, epochs=6, unfinished="keep", schedule="constant", warmup=0)
    gains = {}
    for sign in (1, -1):
        steps = list(
            train_policy(
                settings,
                prompts,
                new_actor(method),
                lambda rollouts, sign=sign: [sign * r for r in lower_letters(rollouts)],  # type: ignore[misc]
                tmp_path / str(sign),
                never,
            )
        )
        rewards = [step.metrics["reward"] for step in steps if step.metrics]
        gains[sign] = sum(rewards[-3:]) / 3 - sum(rewards[:3]) / 3
    assert gains[1] > 0.15
    assert gains[-1] > 0.15


@pytest.mark.parametrize("method", METHODS)
def test_the_metrics_have_their_known_names(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path, method: str
) -> None:
    settings = config(method, rollout_epochs=2, minibatches=2, temperature=0.7)
    steps = list(train_policy(settings, prompts, new_actor(method), lower_letters, tmp_path, never))
    own = {"policy_loss", "value_loss"} if method == "ppo" else set()
    groups = set() if method == "ppo" else {"frac_reward_zero_std"}
    assert len(steps) == 8
    for i, step in enumerate(steps):
        begins = i % 4 == 0
        assert set(step.metrics) == ALWAYS | own | (BEGIN | groups if begins else set())
        if begins:
            assert step.metrics["ratio"] == step.metrics["ratio/first"] == pytest.approx(1, abs=1e-6)
            assert step.metrics["clip_ratio"] == 0
        else:
            assert step.metrics["ratio"] != 1
    assert steps[0].metrics["kl"] == pytest.approx(0, abs=1e-5)
    assert steps[4].metrics["kl"] != 0
    if method == "ppo":
        for metrics in (step.metrics for step in steps):
            assert metrics["loss"] == pytest.approx(metrics["policy_loss"] + 0.1 * metrics["value_loss"], abs=1e-6)


@pytest.mark.parametrize(("method", "minibatches"), [*((method, 2) for method in METHODS), ("grpo", 1)])
def test_a_training_stopped_after_any_update_goes_on_to_the_very_same_folder(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path, method: str, minibatches: int
) -> None:
    """Two rounds of four updates: most stops are inside a round, whose answers must come from the checkpoint."""
    settings = config(method, rollout_epochs=4 // minibatches, minibatches=minibatches, kl_target=0.5)
    straight = list(train_policy(settings, prompts, new_actor(method), lower_letters, tmp_path / "straight", never))
    expected = contents(tmp_path / "straight")
    for stop_after in range(1, 8):
        polls, folder = count(), tmp_path / str(stop_after)
        stopped = train_policy(
            settings,
            prompts,
            new_actor(method),
            lower_letters,
            folder,
            lambda polls=polls, last=stop_after: next(polls) == last,  # type: ignore[misc]
        )
        with pytest.raises(Interrupted, match=f"after update {stop_after} of 8"):
            list(stopped)
        resumed = train_policy(settings, prompts, new_actor(method), lower_letters, folder, never)
        assert list(resumed) == straight[stop_after:]
        assert contents(folder) == expected


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("micro_tokens", [1, 40])
def test_splitting_an_update_changes_neither_loss_nor_gradient(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path, method: str, micro_tokens: int
) -> None:
    settings = config(method, minibatches=2)
    actor = new_actor(method)
    [first, second, *_] = plan_updates(settings, [prompt.id for prompt in prompts])
    scene = scene_of(settings, prompts, actor, tmp_path)
    begun = begin_round(scene, first, 0.3)
    nudge(actor)

    def measure(micro_tokens: int) -> tuple[dict[str, float], torch.Tensor]:
        split = replace(scene, config=settings.model_copy(update={"micro_tokens": micro_tokens}))
        return gradient_of(actor, lambda: policy_gradient(split, begun.round, second).metrics)

    whole, whole_gradient = measure(100_000)
    parts, parts_gradient = measure(micro_tokens)
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)
    assert (parts_gradient - whole_gradient).norm() < 1e-4 * whole_gradient.norm()
    assert whole["clip_ratio"] > 0


def test_layers_computed_again_give_policy_and_value_the_same_gradient(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    settings = config("ppo", minibatches=2)
    actor = new_actor("ppo")
    [first, second, *_] = plan_updates(settings, [prompt.id for prompt in prompts])
    scene = scene_of(settings, prompts, actor, tmp_path)
    begun = begin_round(scene, first, 0.3)
    nudge(actor)
    found = []
    for again in (False, True):
        own = replace(scene, config=settings.model_copy(update={"checkpointing": again}))
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            _, gradient = gradient_of(actor, lambda own=own: policy_gradient(own, begun.round, second).metrics)
        found.append((gradient, sum(kept)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1] < found[0][1]


def gradient_of(
    actor: Trainee | ActorCritic, accumulate: Callable[[], dict[str, torch.Tensor]]
) -> tuple[dict[str, float], torch.Tensor]:
    for parameter in actor.parameters().values():
        parameter.grad = None
    metrics = {name: value.item() for name, value in accumulate().items()}
    return metrics, torch.cat([p.grad.flatten() for p in actor.parameters().values() if p.grad is not None])


def ppo_plainly(
    actor: ActorCritic, rollouts: list[tuple[TokenRow, float]], old: list[dict[str, torch.Tensor]], kl: float
) -> torch.Tensor:
    """PPO once more from start to end: one answer at a time, loops for sums, nothing of ours but the two networks."""
    told = []
    for (row, score), before in zip(rollouts, old, strict=True):
        n = len(row.completion_ids)
        rewards = [-kl * (before["policy"][t] - before["reference"][t]).item() for t in range(n)]
        rewards[-1] += score
        advantages, carry = [0.0] * n, 0.0
        for t in reversed(range(n)):
            after = before["value"][t + 1].item() if t + 1 < n else 0.0
            carry = rewards[t] + after - before["value"][t].item() + 0.95 * carry
            advantages[t] = carry
        told.append((advantages, [a + before["value"][t].item() for t, a in enumerate(advantages)]))
    every = [a for advantages, _ in told for a in advantages]
    mean = sum(every) / len(every)
    spread = math.sqrt(sum((a - mean) ** 2 for a in every) / len(every) + 1e-8)
    policy_loss = value_loss = torch.zeros(())
    for (row, _), before, (advantages, returns) in zip(rollouts, old, told, strict=True):
        new, values = actor.policy.policy_logps([row]).logps_BT[0], actor.value.values([row]).values_BT[0]
        for t, (advantage, target) in enumerate(zip(advantages, returns, strict=True)):
            ratio, scaled = torch.exp(new[t] - before["policy"][t]), (advantage - mean) / spread
            policy_loss = policy_loss + torch.max(-scaled * ratio, -scaled * torch.clamp(ratio, 0.8, 1.2))
            near = torch.clamp(values[t], before["value"][t] - 0.2, before["value"][t] + 0.2)
            value_loss = value_loss + 0.5 * torch.max((values[t] - target) ** 2, (near - target) ** 2)
    return (policy_loss + 0.1 * value_loss) / len(every)


def test_ppo_equals_a_plain_implementation_in_loss_and_gradient(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    settings = config("ppo", unfinished="keep", rollout_epochs=2)
    actor = new_actor("ppo")
    assert isinstance(actor, ActorCritic)
    nudge(actor)
    scene = scene_of(settings, prompts, actor, tmp_path)
    [first, second, *_] = plan_updates(settings, [prompt.id for prompt in prompts])
    now = begin_round(scene, first, 0.3).round
    scores = [json.loads(line)["reward"] for line in (tmp_path / "00000001.jsonl").read_text().splitlines()]
    with torch.no_grad():
        old = [
            {
                "policy": actor.policy.policy_logps([row]).logps_BT[0],
                "reference": actor.policy.reference_logps([row]).logps_BT[0],
                "value": actor.value.values([row]).values_BT[0],
            }
            for row in now.rows
        ]
    nudge(actor)

    def plainly() -> dict[str, torch.Tensor]:
        loss = ppo_plainly(actor, list(zip(now.rows, scores, strict=True)), old, 0.3)
        loss.backward()
        return {"loss": loss}

    metrics, gradient = gradient_of(actor, lambda: policy_gradient(scene, now, second).metrics)
    expected, expected_gradient = gradient_of(actor, plainly)
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert (gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()
    assert 0 < metrics["clip_ratio"] < 1


def test_the_order_in_which_prompts_come_changes_nothing(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    straight = list(train_policy(config("grpo"), prompts, new_actor("grpo"), lower_letters, tmp_path / "a", never))
    turned = list(train_policy(config("grpo"), prompts[::-1], new_actor("grpo"), lower_letters, tmp_path / "b", never))
    assert turned == straight


class Differing:
    """A policy whose passes with gradients differ from those without."""

    def __init__(self, trainee: Trainee, shift: float) -> None:
        self.trainee, self.shift = trainee, shift
        self.parameters, self.state, self.reference_logps = trainee.parameters, trainee.state, trainee.reference_logps
        self.view, self.resting, self.save = trainee.view, trainee.resting, trainee.save

    def policy_logps(self, rows: list[TokenRow], **options: object) -> TokenLogps:
        logps = self.trainee.policy_logps(rows, **options)  # type: ignore[arg-type]
        shift = self.shift if torch.is_grad_enabled() else 0.0
        return TokenLogps(logps.logps_BT + shift * logps.mask_BT, logps.mask_BT)


@pytest.mark.parametrize(("method", "minibatches"), [("rloo", 1), ("grpo", 2)])
def test_a_policy_that_does_not_agree_with_itself_is_refused(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path, method: str, minibatches: int
) -> None:
    settings = config(method, minibatches=minibatches)
    differing = Differing(policy_of(new_actor(method)), 0.01)
    with pytest.raises(CaiError, match=r"answer prompt-\d/\d: before the round's first step .* is 0\.01 nats away"):
        list(train_policy(settings, prompts, differing, lower_letters, tmp_path, never))  # type: ignore[arg-type]
    same = Differing(policy_of(new_actor(method)), 0.0)
    assert list(train_policy(settings, prompts, same, lower_letters, tmp_path / "same", never))  # type: ignore[arg-type]


class Counting:
    """A policy that counts what it reads."""

    def __init__(self, trainee: Trainee) -> None:
        self.trainee, self.read = trainee, 0
        self.parameters, self.state, self.reference_logps = trainee.parameters, trainee.state, trainee.reference_logps
        self.view, self.resting, self.save = trainee.view, trainee.resting, trainee.save

    def policy_logps(self, rows: list[TokenRow], **options: object) -> TokenLogps:
        self.read += len(rows)
        return self.trainee.policy_logps(rows, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "changes", "reads"),
    [("grpo", {}, 1), ("grpo", {"rollout_epochs": 2}, 2), ("grpo", {"minibatches": 2}, 2), ("rloo", {}, 2)],
)
def test_the_policy_reads_an_answer_no_oftener_than_its_method_asks(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path, method: str, changes: dict[str, int], reads: int
) -> None:
    """Once for each time that it learns from it, and before that where advantages or later updates ask for it."""
    policy = Counting(policy_of(new_actor(method)))
    list(train_policy(config(method, **changes), prompts, policy, lower_letters, tmp_path, never))  # type: ignore[arg-type]
    assert policy.read == reads * len(prompts) * 4


def test_grpo_that_reads_a_round_once_learns_as_if_it_had_looked_back(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    """The policy is away from its reference, and the first update is split into passes. A second time over the round
    clips by what the first one left behind."""
    settings = config("grpo", rollout_epochs=2, micro_tokens=40)
    actor = policy_of(new_actor("grpo"))
    nudge(actor)
    scene = scene_of(settings, prompts, actor, tmp_path)
    [first, second, *_] = plan_updates(settings, [prompt.id for prompt in prompts])
    now = begin_round(scene, first, 0.3).round
    assert not now.old_NT.any()
    looked_back = replace(now, old_NT=torch.zeros_like(now.old_NT))
    with torch.no_grad():
        for i, row in enumerate(now.rows):
            looked_back.remember([i], actor.policy_logps([row]).logps_BT)
    metrics, gradient = gradient_of(actor, lambda: policy_gradient(scene, now, first).metrics)
    torch.testing.assert_close(now.old_NT, looked_back.old_NT, rtol=1e-5, atol=1e-5)
    assert drift(now) == pytest.approx(drift(looked_back), rel=1e-4)
    assert drift(now)["kl"] != 0
    assert metrics["ratio/first"] == pytest.approx(1, abs=1e-6)
    again = replace(looked_back, old_NT=looked_back.old_NT.clone())
    plain, plain_gradient = gradient_of(actor, lambda: policy_gradient(scene, again, replace(first, epoch=1)).metrics)
    assert metrics["loss"] == pytest.approx(plain["loss"], abs=1e-6)
    assert (gradient - plain_gradient).norm() < 1e-4 * plain_gradient.norm()
    nudge(actor)
    later, later_gradient = gradient_of(actor, lambda: policy_gradient(scene, now, second).metrics)
    expected, expected_gradient = gradient_of(actor, lambda: policy_gradient(scene, looked_back, second).metrics)
    assert later == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert later["clip_ratio"] > 0
    assert (later_gradient - expected_gradient).norm() < 1e-4 * expected_gradient.norm()


def test_answers_are_kept_with_their_rewards_and_follow_from_names(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    settings = config("grpo", epochs=2, learning_rate=1e-12)
    list(train_policy(settings, prompts, new_actor("grpo"), lower_letters, tmp_path, never))
    rounds = [
        {(line["prompt"], line["sample"]): line for line in map(json.loads, path.read_text("utf-8").splitlines())}
        for path in sorted((tmp_path / "rollouts").iterdir())
    ]
    assert [len(lines) for lines in rounds] == [16] * 4
    first = rounds[0] | rounds[1]
    again = rounds[2] | rounds[3]
    assert first.keys() == again.keys() == {(prompt.id, i) for prompt in prompts for i in range(4)}
    assert len({line["text"] for line in first.values()}) > 16
    assert sum(first[key]["text"] == again[key]["text"] for key in first) < 8
    assert {"prompt", "sample", "text", "finish", "reward"} == set(next(iter(first.values())))


def test_a_value_is_asked_for_where_it_is_learnt_and_saved_beside_the_policy(
    acting_bench: Workbench, new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="learns a value, and none was given"):
        next(train_policy(config("ppo"), prompts, new_actor("grpo"), lower_letters, tmp_path, never))
    with pytest.raises(InputError, match="learns no value, and one was given"):
        next(train_policy(config("grpo"), prompts, new_actor("ppo"), lower_letters, tmp_path, never))
    actor = new_actor("ppo")
    assert isinstance(actor, ActorCritic)
    list(train_policy(config("ppo", value_weight=1), prompts, actor, lower_letters, tmp_path, never))
    row = TokenRow(prompts[0].prompt_ids, (20, 30))
    value = acting_bench.scorer(tmp_path / "value")
    assert torch.equal(value.scores([row]), actor.value.scores([row]).detach())
    assert value.scores([row]).abs().item() > 1e-4
    assert acting_bench.view(tmp_path / "adapter").name
    acting_bench.release(value)


def test_the_price_rises_and_falls_from_round_to_round(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    settings = config("grpo", epochs=2, kl_target=100.0, kl_horizon=16)
    steps = list(train_policy(settings, prompts, new_actor("grpo"), lower_letters, tmp_path, never))
    prices = [step.metrics["kl_coefficient"] for step in steps]
    assert prices == pytest.approx([0.01 * 0.8**i for i in range(4)])


def test_held_out_prompts_are_answered_and_never_trained_on(
    new_actor: NewActor, prompts: list[PromptRow], tmp_path: Path
) -> None:
    settings = config("grpo", holdout=0.25, probe_every=1, best="eval/reward", batch_size=3)
    steps: list[Step] = list(train_policy(settings, prompts, new_actor("grpo"), lower_letters, tmp_path, never))
    told = [step.metrics for step in steps if step.metrics]
    assert len(told) == 2
    assert all({"eval/reward", "eval/completions/mean_length"} <= metrics.keys() for metrics in told)
    asked = {
        json.loads(line)["prompt"] for p in (tmp_path / "rollouts").iterdir() for line in p.read_text().splitlines()
    }
    assert len(asked) == 6
