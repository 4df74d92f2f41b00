"""Fidelity checks of GBRL: what only the right method satisfies. Trees have theirs in tests/nn and tests/models."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete, MultiDiscrete
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from replicata.data.control.fetch4 import Fetch4
from replicata.data.control.gym import GymEnvironments
from replicata.errors import UserError
from replicata.methods.control.gbrl import (
    GBRL,
    FitTime,
    PackageTrees,
    SklearnTrees,
    TreeActorCritic,
    below,
    clipped,
    noise_cost,
    relative_score,
)
from replicata.metrics.timing import MIN_BLOCKS
from replicata.run.compose import compose
from replicata.run.execute import build
from replicata.run.identity import resolved
from replicata.streams import Streams
from replicata.study.parse import parse
from replicata.study.plan import expand
from replicata.study.schema import Study

RATES = torch.tensor([0.3, 0.3, 0.3, 0.05])
FETCH = {"obs_shape": [10], "num_words": 11, "num_actions": 4, "continuous": False, "horizon": 40}
LAMP = {"obs_shape": [2], "num_words": 4, "num_actions": 4, "continuous": False, "horizon": 1}
PENDULUM = {"obs_shape": [3], "num_words": None, "num_actions": 1, "continuous": True, "horizon": 200}


class Lamp(gymnasium.Env[Any, Any]):
    """One step: to name the first of two words pays 1."""

    observation_space, action_space, max_steps = MultiDiscrete([4, 4]), Discrete(4), 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.words = self.np_random.integers(4, size=2)
        return self.words, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.words, float(action == self.words[0]), True, False, {}


class Watched(GBRL):
    """Keeps what its trees are fitted to, and the rollout."""

    def improve(self, rollout: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        self.rollout = rollout
        return super().improve(rollout, rows)

    def fit(self, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        self.fitted = (x, gradients, rates)
        super().fit(x, gradients, rates)


def data(make: Any = Fetch4, facts: Mapping[str, Any] = FETCH, **sizes: Any) -> GymEnvironments:
    return GymEnvironments(make, **(dict(facts) | {"num_envs": 4, "n_steps": 16, "rollouts_per_epoch": 2} | sizes))


def gbrl(
    kind: type[GBRL] = GBRL, facts: Mapping[str, Any] = FETCH, trees: Mapping[str, Any] | None = None, **settings: Any
) -> Any:
    form = {name: facts[name] for name in ("num_actions", "num_words", "continuous")} | dict(trees or {})
    rates = {"policy_lr": 0.2, "value_lr": 0.05, "epochs": 2, "batch_size": 32, "window": 50}
    return kind(model=TreeActorCritic(**form), **(rates | settings))


def pendulum() -> Any:
    return gymnasium.make("Pendulum-v1", disable_env_checker=True)


def rows(n: int = 60, words: int | None = None, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(n, 4, generator=generator)
    x = numbers if words is None else torch.randint(words, (n, 4), generator=generator).float()
    return x, torch.randn(n, 4, generator=generator)


# The step: Eqs. (1) and (2) -----------------------------------------------------------------


def minibatch(n: int = 24, facts: Mapping[str, Any] = FETCH) -> dict[str, Tensor]:
    """A rollout by a policy that has learned something already."""
    generator = torch.Generator().manual_seed(0)
    words, actions = facts["num_words"], facts["num_actions"]
    outputs = torch.randn(n, actions + 1, generator=generator)
    action = torch.randint(actions, (n,), generator=generator)
    return {
        "obs": torch.randint(words, (n, *facts["obs_shape"]), generator=generator).float(),
        "outputs": outputs,
        "action": action,
        "log_prob": outputs[:, :-1].log_softmax(1).gather(1, action[:, None])[:, 0],
        "advantage": torch.randn(n, generator=generator),
        "return": torch.randn(n, generator=generator) + 3,
    }


@pytest.mark.parametrize("algorithm", ["ppo", "a2c"])
def test_a_tree_is_fitted_to_the_gradient_of_each_examples_own_loss(algorithm: str) -> None:
    """Of all of them in closed form: the softmax's, the entropy's and the square's, whatever the size of the batch."""
    method = gbrl(Watched, algorithm=algorithm, entropy_coef=0.3, value_coef=0.4)
    rollout = minibatch()
    outputs, advantage = rollout["outputs"].clone(), rollout["advantage"]
    method.improve(rollout, torch.arange(24))
    standard = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    share = outputs[:, :-1].softmax(1)
    chosen = torch.eye(4)[rollout["action"]]
    entropy = -(share * share.log()).sum(1, keepdim=True)
    policy = standard[:, None] * (share - chosen) + 0.3 * share * (share.log() + entropy)
    value = 2 * 0.4 * (outputs[:, -1:] - rollout["return"][:, None])
    _, gradients, rates = method.fitted
    torch.testing.assert_close(gradients, torch.cat([policy, value], 1))
    assert rates.tolist() == pytest.approx([0.2] * 4 + [0.05])


def test_a_step_goes_down_the_gradient() -> None:
    """A tree without questions moves all outputs by the rate times the mean gradient, the value to the returns."""
    method = gbrl(trees={"depth": 0}, normalise_advantage=False, value_coef=0.5)
    rollout = minibatch()
    rollout["outputs"].zero_()
    rollout["log_prob"].fill_(0.25).log_()
    method.improve(rollout, torch.arange(24))
    out = method.model(rollout["obs"])
    torch.testing.assert_close(out[:, -1], (0.05 * rollout["return"].mean()).expand(24))
    chosen = torch.eye(4)[rollout["action"]]
    expected = 0.2 * (rollout["advantage"][:, None] * (chosen - 0.25)).mean(0)
    torch.testing.assert_close(out[:, :-1], expected.expand(24, -1))


@pytest.mark.parametrize("shared", [True, False])
def test_depth_zero_adds_the_mean_gradient_times_the_rates(shared: bool) -> None:
    model, (x, gradients) = TreeActorCritic(3, shared=shared, depth=0), rows()
    model.boost(x, gradients, RATES)
    torch.testing.assert_close(model(x), (-RATES * gradients.mean(0)).expand(60, -1))


def test_a_fresh_policy_is_uniform_with_value_zero_and_a_ratio_of_one(fit: Callable[..., Any]) -> None:
    first: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    class First(Watched):
        def improve(self, rollout: dict[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
            before = {name: value.clone() for name, value in rollout.items()}
            losses = super().improve(rollout, rows)
            first.append((before, losses))
            return losses

    fit(gbrl(First, entropy_coef=1.0, value_coef=1.0), data())
    rollout, losses = first[0]
    assert not rollout["outputs"].any()
    torch.testing.assert_close(rollout["log_prob"], torch.full((64,), 0.25).log())
    assert float(losses["policy"].detach()) == pytest.approx(0, abs=1e-6)  # the mean of standardised advantages
    assert float(losses["entropy"].detach()) == pytest.approx(-float(torch.tensor(4.0).log()))
    assert set(rollout["action"].tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize("shared", [True, False])
def test_outputs_that_go_along_are_those_of_all_trees(shared: bool, fit: Callable[..., Any]) -> None:
    method = gbrl(Watched, trees={"shared": shared}, epochs=3)
    trainer = fit(method, data(), max_epochs=2)
    steps = 2 * 2 * 3 * 2  # epochs of the run, rollouts, passes, minibatches of a rollout
    assert method.model.trees == steps * (1 if shared else 2)
    assert float(trainer.callback_metrics["cost/trees"]) == method.model.trees
    torch.testing.assert_close(method.rollout["outputs"], method.model(method.rollout["obs"]), atol=1e-5, rtol=1e-5)


def test_a2c_takes_one_step_a_rollout(fit: Callable[..., Any]) -> None:
    method = gbrl(Watched, algorithm="a2c", epochs=1, batch_size=None)
    fit(method, data(rollouts_per_epoch=5))
    assert method.model.trees == 5
    assert len(method.fitted[0]) == 64


@pytest.mark.parametrize("form", [{}, {"shared": False}, {"oblivious": False}, {"score": "l2"}])
def test_it_learns_what_a_word_means(form: dict[str, Any], fit: Callable[..., Any]) -> None:
    method = gbrl(facts=LAMP, trees=form, epochs=4, window=64)
    trainer = fit(method, data(Lamp, LAMP, rollouts_per_epoch=10))
    assert float(trainer.callback_metrics["test/return"]) > 0.8  # 0.25 by chance


# Clipping: Eq. (3) --------------------------------------------------------------------------


@given(seed=st.integers(0, 999), policy=st.floats(0.1, 5), value=st.floats(0.1, 3))
@settings(max_examples=30, deadline=None)
def test_what_is_below_the_threshold_is_left_alone(seed: int, policy: float, value: float) -> None:
    gradients = rows(seed=seed)[1]
    found = clipped(gradients, policy, value)
    norm = gradients[:, :-1].norm(dim=1)
    assert torch.equal(found[norm <= policy, :-1], gradients[norm <= policy, :-1])
    long = norm > policy
    torch.testing.assert_close(found[long, :-1].norm(dim=1), torch.full((int(long.sum()),), policy))
    torch.testing.assert_close(found[long, :-1] * (norm[long, None] / policy), gradients[long, :-1])
    np.testing.assert_array_equal(found[:, -1], gradients[:, -1].clip(-value, value))
    assert torch.equal(clipped(gradients, None, None), gradients)
    assert torch.equal(clipped(torch.zeros(3, 4), policy, value), torch.zeros(3, 4))


# Trees: Eqs. (4) and (5) --------------------------------------------------------------------


@pytest.mark.parametrize("words", [None, 5])
def test_without_gradients_of_the_value_sharing_is_a_tree_for_the_policy(words: int | None) -> None:
    shared, separate = (TreeActorCritic(3, num_words=words, shared=each) for each in (True, False))
    for seed in range(3):
        x, gradients = rows(words=words, seed=seed)
        gradients[:, -1] = 0
        for model in (shared, separate):
            model.boost(x, gradients, RATES)
    assert torch.equal(shared(x), separate(x))
    assert not shared(x)[:, -1].any()
    assert 2 * shared.trees == separate.trees


def test_sharing_lets_the_policy_see_the_splits_of_the_value() -> None:
    x, gradients = rows()
    gradients[:, :-1] *= 1e-3
    gradients[:, -1] = torch.where(x[:, 2] > 0, 5.0, -5.0)
    shared, separate = (TreeActorCritic(3, depth=1, shared=each) for each in (True, False))
    for model in (shared, separate):
        model.boost(x, gradients, RATES)
    split = x[:, 2] > 0
    policy = shared(x)[:, :-1]
    torch.testing.assert_close(policy[split], (-RATES[:-1] * gradients[split, :-1].mean(0)).expand_as(policy[split]))
    assert not torch.allclose(separate(x)[:, :-1], policy)
    torch.testing.assert_close(separate(x)[:, -1], shared(x)[:, -1])


@pytest.mark.parametrize("oblivious", [True, False])
def test_names_of_words_do_not_matter(oblivious: bool) -> None:
    plain, renamed = (TreeActorCritic(3, num_words=5, oblivious=oblivious) for _ in range(2))
    names = torch.tensor([3.0, 0.0, 4.0, 2.0, 1.0])
    for seed in range(3):
        x, gradients = rows(words=5, seed=seed)
        plain.boost(x, gradients, RATES)
        renamed.boost(names[x.long()], gradients, RATES)
    assert torch.equal(plain.last(x), renamed.last(names[x.long()]))


# One tree of the authors' package (version 1.1.6): three levels, by the cosine score. Its questions are 0, 2, 1 of the
# features; leaves in order, the last question first.
NUMBERS = [0.327474445104599, -0.9370730519294739, 0.48639869689941406]
NUMBER_LEAVES = [
    [-0.0505063, 0.00107123, 0.00915225],
    [-0.176288, 0.687282, -0.00310752],
    [0.725412, 1.21243, 0.0980796],
    [1.08966, 0.0790098, 0.0764278],
    [-0.933171, -0.721456, 0.830877],
    [0, 0, 0],
    [-0.206295, 0.14367, 1.1035],
    [0.083924, -0.273524, 0.895769],
]
WORDS = [0.0, 0.0, 2.0]
WORD_LEAVES = [
    [-0.0269287, 0.10523, 1.00506],
    [0, 0, 0],
    [-1.04368, -0.0811202, 0.906339],
    [0, 0, 0],
    [0.890807, 1.08312, -0.0240635],
    [0.846899, 1.36016, -0.0305524],
    [-0.0858008, 0.172185, -0.235492],
    [0.0906716, -0.683385, 0.98773],
]


def example(words: bool) -> tuple[Tensor, Tensor]:
    """48 rows without a generator of random numbers: four features and three outputs."""
    i, j, k = torch.arange(1.0, 49).double()[:, None], torch.arange(1.0, 5).double(), torch.arange(3).double()
    x = torch.sin(i * j * 0.7 + j * j)
    x = ((x + 1) * 2.5).floor().clamp(0, 4).float() if words else x.float()
    steps = (x[:, :1] > 0.3).double() * (k - 1) + (x[:, 2:3] > 0.1).double() * (1 - 0.5 * k)
    return x, (torch.cos(i * (k + 1) * 0.37 + k) + steps).float()


@pytest.mark.parametrize(("words", "values", "leaves"), [(None, NUMBERS, NUMBER_LEAVES), (5, WORDS, WORD_LEAVES)])
def test_a_tree_is_the_one_of_the_authors_package(
    words: int | None, values: list[float], leaves: list[list[float]]
) -> None:
    model = TreeActorCritic(2, num_words=words, depth=3)
    model.boost(*example(words is not None), torch.ones(3))
    (ensemble,) = model.members()
    assert ensemble.features[0].tolist() == [0, 2, 1]
    assert ensemble.values[0].tolist() == pytest.approx(values, abs=1e-7)
    torch.testing.assert_close(-ensemble.leaves[0], torch.tensor(leaves), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("score", ["cosine", "l2"])
@pytest.mark.parametrize("oblivious", [True, False])
@pytest.mark.parametrize("words", [None, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_trees_are_those_of_the_installed_package(shared: bool, words: int | None, oblivious: bool, score: Any) -> None:
    pytest.importorskip("gbrl")
    form: dict[str, Any] = {
        "num_words": words, "shared": shared, "oblivious": oblivious, "score": score, "depth": 3,
    }  # fmt: skip
    for seed in range(5):
        ours, theirs = TreeActorCritic(3, **form), PackageTrees(3, **form)
        x, gradients = rows(120, words, seed)
        for model in (ours, theirs):
            model.boost(x, gradients, RATES)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.last(x), theirs.last(x), atol=1e-5, rtol=1e-5)
        assert ours.trees == theirs.trees


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("words", [None, 5])
def test_the_package_goes_on_where_it_was_saved(words: int | None, shared: bool) -> None:
    pytest.importorskip("gbrl")
    whole, again = (PackageTrees(3, num_words=words, shared=shared) for _ in range(2))
    again.load_state_dict(whole.state_dict())  # of none
    x, gradients = rows(words=words)
    assert not whole(x).any()
    for _ in range(3):
        whole.boost(x, gradients, RATES)
    again.load_state_dict(whole.state_dict())
    for model in (whole, again):
        model.boost(x, gradients * 2, RATES)
    assert torch.equal(whole(x), again(x))
    assert again.trees == whole.trees == (4 if shared else 8)
    assert again.nbytes > 0


def test_without_the_package_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gbrl.models.actor_critic", None)
    with pytest.raises(UserError, match="gbrl is not installed"):
        PackageTrees(3)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("words", [None, 5])
def test_scikit_learns_trees_answer_as_scikit_learn_does(words: int | None, shared: bool) -> None:
    from sklearn.tree import DecisionTreeRegressor

    model, (x, gradients) = SklearnTrees(3, num_words=words, shared=shared), rows(words=words)
    model.boost(x, gradients, RATES)
    seen = x.numpy() if words is None else np.eye(words)[x.long().numpy()].reshape(60, -1)
    parts = [gradients] if shared else [gradients[:, :-1], gradients[:, -1:]]
    fitted: list[Any] = [DecisionTreeRegressor(max_depth=4, random_state=0).fit(seen, part.numpy()) for part in parts]
    expected = np.concatenate([tree.predict(seen).reshape(60, -1) for tree in fitted], 1)
    torch.testing.assert_close(model(x), -RATES * torch.from_numpy(expected).float())


@given(threshold=st.floats(-1e3, 1e3), number=st.floats(-1e3, 1e3, width=32))
@settings(max_examples=100, deadline=None)
def test_a_rounded_threshold_parts_the_same_numbers(threshold: float, number: float) -> None:
    for near in (np.float32(number), np.float32(threshold)):
        assert (near > below(threshold)) == (float(near) > threshold)


# Gaussian policies --------------------------------------------------------------------------


def test_deviations_of_a_gaussian_are_adams_and_do_not_depend_on_the_state(fit: Callable[..., Any]) -> None:
    adam = partial(torch.optim.Adam, lr=1.7e-3)
    method = gbrl(Watched, PENDULUM, optimizer=adam, final_lr=4.75e-4, policy_clip=100.0, value_clip=10.0)
    assert method.model.log_std.tolist() == [-2.0]
    fit(method, data(pendulum, PENDULUM), max_epochs=2)
    moved = float(method.model.log_std.detach()) + 2
    steps = 2 * 2 * 2 * 2
    assert 0 < abs(moved) <= steps * 1.7e-3 + 1e-6
    (group,) = method.optimizers(use_pl_optimizer=False).param_groups
    assert group["lr"] == pytest.approx(1.7e-3 + 0.75 * (4.75e-4 - 1.7e-3))  # when the last rollout began
    assert float(method.fitted[1][:, -1].abs().max()) <= 10
    assert method.model(method.rollout["obs"]).shape == (64, 2)


# Going on after an interruption, and times --------------------------------------------------


@pytest.mark.parametrize(
    ("make", "facts", "form", "settings"),
    [(Fetch4, FETCH, {"shared": False}, {}), (pendulum, PENDULUM, {}, {"normalise_reward": True, "final_lr": 1e-4})],
    ids=["words", "numbers"],
)
def test_stopped_between_rollouts_and_resumed_equals_uninterrupted(
    make: Any, facts: Any, form: Any, settings: Any, fit: Callable[..., Any], saving: Callable[..., Any], tmp_path: Path
) -> None:
    def method() -> GBRL:
        return gbrl(Watched, facts, form, optimizer=partial(torch.optim.Adam, lr=1e-3), **settings)

    whole, resumed, cut = method(), method(), tmp_path / "cut.ckpt"
    fit(whole, data(make, facts), max_epochs=2, callbacks=[saving(cut, after=3)])
    fit(resumed, data(make, facts), max_epochs=2, resume=cut)
    assert resumed.tables == whole.tables
    assert resumed.state_dict().keys() == whole.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


def test_shared_and_separate_steps_are_timed_by_turns(fit: Callable[..., Any]) -> None:
    method = gbrl(FitTime, LAMP, blocks=3, repeats=1)
    fit(method, data(Lamp, LAMP))
    assert method.exclusive
    assert set(method.panel) == {"shared_timed", "separate_timed"}
    assert all(metrics["cost/fit_s"] > 0 for metrics in method.panel.values())
    times = method.tables["times"]
    assert [row["function"] for row in times[:4]] == ["shared", "separate", "separate", "shared"]
    assert len(times) == 2 * MIN_BLOCKS
    assert method.model.trees == 8  # timing adds none


# What the study derives ---------------------------------------------------------------------


def run(arm: str, value: float) -> dict[str, Any]:
    return {"arm": arm, "metrics": {"test/return": value}}


def test_scores_are_relative_to_the_network_of_the_same_problem() -> None:
    others = [
        run("nn_ppo", 0.8), run("random_policy", 0.2), run("nn_ppo_cartpole", 420), run("random_policy_cartpole", 20),
    ]  # fmt: skip
    assert relative_score(run("gbrl_l2", 0.5), *others) == pytest.approx(0.5)
    assert relative_score(run("gbrl_ppo_cartpole", 120), *others) == pytest.approx(0.25)
    assert [relative_score(each, *others) for each in others] == pytest.approx([1, 0, 1, 0])


def test_noise_costs_what_the_same_learner_has_more_without_it() -> None:
    others = [run("gbrl_ppo", 0.7), run("nn_ppo", 0.8)]
    assert noise_cost(run("gbrl_ppo_noise", 0.6), *others) == pytest.approx(0.1)
    assert noise_cost(run("nn_ppo_noise", 0.5), *others) == pytest.approx(0.3)


# The study and the paper's scale ------------------------------------------------------------


def environment_steps(config: DictConfig) -> int:
    data = config.data
    return data.num_envs * data.n_steps * data.rollouts_per_epoch * config.trainer.max_epochs


@cache
def study(experiment: str) -> Study:
    return parse(compose([f"experiment={experiment}"]).study, experiment)


def composed(name: str, experiment: str = "control/gbrl") -> DictConfig:
    """An arm, at the first level of its factor."""
    (spec, *_) = expand(study(experiment), arms=[name], seeds=1)
    return compose(list(spec.overrides))


def test_arms_of_a_problem_get_the_same_steps_and_the_cards_settings() -> None:
    ours, network, a2c, pole, pole_network = (
        resolved(composed(name)) for name in ("gbrl_ppo", "nn_ppo", "gbrl_a2c", "gbrl_ppo_cartpole", "nn_ppo_cartpole")
    )
    assert {environment_steps(each) for each in (ours, network, a2c)} == {90_112}
    assert {environment_steps(each) for each in (pole, pole_network)} == {60_416}
    assert {each.method.window for each in (ours, network, a2c)} == {300}
    assert {each.method.window for each in (pole, pole_network)} == {30}
    assert (ours.method.batch_size, ours.method.epochs, ours.method.gamma, ours.method.gae_lambda) == (
        256,
        4,
        0.99,
        0.95,
    )
    assert (network.method.batch_size, network.method.epochs) == (64, 10)
    assert (pole_network.method.batch_size, pole_network.method.epochs) == (256, 10)
    assert (pole.method.batch_size, pole.method.epochs, pole.method.gamma, pole.method.gae_lambda) == (64, 1, 0.98, 0.8)
    assert (pole.method.policy_clip, pole.method.value_clip) == (100, 10)
    assert (a2c.method.batch_size, a2c.method.epochs, a2c.method.algorithm) == (None, 1, "a2c")
    assert ours.model.depth == 4
    assert ours.model.n_bins == 256


def two_steps(config: DictConfig) -> Any:
    """Two steps on a rollout of the true shapes; the environments themselves need not be installed."""
    module, method = build(config, Streams(0), {})
    generator = torch.Generator().manual_seed(0)
    n = 2 * (config.method.batch_size or module.num_envs * module.n_steps)
    if module.num_words is None:
        obs = torch.randn(n, *module.obs_shape, generator=generator)
    else:
        obs = torch.randint(module.num_words, (n, *module.obs_shape), generator=generator).float()
    with torch.no_grad():
        outputs = method.outputs(obs)
        action = method.actions.sample(
            outputs[:, :-1], method.actions.noise(n, module.num_actions, generator=generator)
        )
        log_prob = method.actions.log_prob_and_entropy(outputs[:, :-1], action)[0]
    numbers = {name: torch.randn(n, generator=generator) for name in ("advantage", "return")}
    rollout = {"obs": obs, "outputs": outputs, "action": action, "log_prob": log_prob, **numbers}
    before = outputs.clone()
    optimizer = method.configure_optimizers()
    method.optimizers, method.progress = (lambda **_: optimizer), (lambda: 0.5)
    for part in torch.randperm(n, generator=generator).chunk(2):
        losses = method.improve(rollout, part)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert not torch.equal(method.outputs(obs), before)
    return method


PAPER = "control/gbrl_paper"


def test_the_papers_scale_has_all_arms() -> None:
    laptop, paper = study("control/gbrl"), study(PAPER)
    assert set(paper.arms) == {*laptop.arms, "package_gbrl"}
    assert {claim.id for claim in laptop.claims if claim.role == "claim"} <= {claim.id for claim in paper.claims}
    assert all(claim.scale == "paper" for claim in paper.claims)
    assert len(paper.factors["task"].levels) == 9


def test_minigrid_at_the_papers_scale_takes_two_steps() -> None:
    trees, network, a2c = (resolved(composed(name, PAPER)) for name in ("gbrl_ppo", "nn_ppo", "gbrl_a2c"))
    for length, steps in (("short", 1_000_000), ("long", 10_000_000)):
        for config in (trees, network, a2c):
            rollout = config.data.num_envs * config.data.n_steps
            name = {4096: "trees", 1024: "network", 1280: "a2c"}[rollout]
            assert 0 <= config.lengths[length][name] * rollout - steps < rollout
    method = two_steps(trees)
    assert method.model.trees == 2
    assert method.model(torch.zeros(1, 51)).shape == (1, 8)
    assert two_steps(a2c).model.trees == 2
    assert two_steps(network).model.actor.layers[0].in_features == 2835
    noisy = resolved(composed("nn_ppo_noise", PAPER))
    assert two_steps(noisy).model.actor.layers[0].in_features == (51 + 32) * 264
    assert isinstance(build(resolved(composed("fit_time", PAPER)), Streams(0), {})[1], FitTime)


def test_gymnasiums_tasks_at_the_papers_scale_take_two_steps() -> None:
    levels = study(PAPER).factors["env"].levels
    assert list(levels) == ["cartpole", "acrobot", "lunarlander", "mountaincar", "mountaincar_continuous", "pendulum"]
    for name in ("gbrl_ppo_cartpole", "nn_ppo_cartpole"):
        base = composed(name, PAPER)
        for level, overrides in levels.items():
            changed = OmegaConf.merge(base, OmegaConf.from_dotlist(list(overrides)))
            assert isinstance(changed, DictConfig)
            config = resolved(changed)
            method = two_steps(config)
            steps = 1_500_000 if level == "lunarlander" else 1_000_000
            assert 0 <= environment_steps(config) - steps < config.data.num_envs * config.data.n_steps
            assert (method.model.log_std is not None) == (level in ("mountaincar_continuous", "pendulum"))
    assert composed("random_policy_cartpole", PAPER).get("optimizer") is None  # it has nothing to learn


# Mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"policy_lr": 0.0}, {"value_lr": -1.0}, {"rate_scale": 0.0}, {"batch_size": -1}])
def test_a_wrong_setting_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"method\.{next(iter(wrong))}"):
        gbrl(**wrong)
