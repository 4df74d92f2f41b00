"""OnPolicy: rollouts by the policy as it is, and a few steps on each of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.nn.action_distribution import Choice, Gaussian
from replicata.nn.losses.policy_gradient import clipped_surrogate, score_function
from replicata.nn.running_norm import RunningNorm
from replicata.optim.advantages import generalised_advantages
from replicata.tasks.base import Task, total


class OnPolicy(Task):
    r"""PPO or A2C, for a network or for whatever else maps observations to outputs.

    A training step is one rollout: ``n_steps`` of each environment by the current policy, their advantages, and
    :meth:`improve` on minibatches of them. Outputs are the policy's (logits, or means of a Gaussian) and, last, the
    value. The loss of a minibatch is

    .. math::
        L = L_\pi - c_e\, H(\pi) + c_v\, \tfrac{1}{B} \sum_i (v_i - R_i)^2

    with the clipped surrogate (``ppo``) or :math:`-A \log \pi` (``a2c``) as :math:`L_\pi`, advantages that are
    standardised within the minibatch, and :math:`R = A + v_{old}`. The value is not clipped.

    It is as stable-baselines3 does it: an episode that a limit cuts off gets the value of its last observation added
    to its last reward; actions of a Gaussian are clipped for the environment alone. With a network as ``model``, this
    class is the baseline; a method that learns otherwise overrides :meth:`outputs` and :meth:`improve`.

    Metrics:
        - ``val/return``: mean return of the last ``window`` episodes of training, at the end of each epoch.
        - ``test/return``, ``test/episodes``: the same after the last rollout, and how many ended in all.
        - ``train/loss`` and its parts ``train/policy``, ``train/entropy`` and ``train/value``.

    Tables: ``returns`` (``steps`` of all environments together, ``return`` as above), a row for each rollout.

    Args:
        algorithm: ``ppo`` or ``a2c``.
        gamma: Discount of rewards.
        gae_lambda: Decay of :func:`~replicata.optim.advantages.generalised_advantages`.
        epochs: Passes over a rollout.
        batch_size: Rows of a minibatch; ``None``: the whole rollout.
        clip_range: :math:`\epsilon` of the surrogate.
        entropy_coef, value_coef: :math:`c_e` and :math:`c_v`.
        normalise_advantage: Whether advantages are standardised.
        max_grad_norm: Norm to which the network's gradient is clipped; ``None``: it is not.
        final_lr: Learning rate at which the optimizer arrives on a line; ``None``: it is constant.
        anneal_clip: Whether ``clip_range`` goes to zero on a line.
        normalise_obs: Whether observations are standardised by what was seen so far.
        normalise_reward: Whether rewards are divided by the deviation of discounted returns so far.
        window: Episodes of the mean return.
        **task: see :class:`~replicata.tasks.base.Task`.

    Raises:
        ValueError: for a setting out of range, by its name in ``method``.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"
    inputs: ClassVar[frozenset[str]] = frozenset({"environments"})

    def __init__(
        self,
        *,
        algorithm: Literal["ppo", "a2c"] = "ppo",
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        epochs: int = 10,
        batch_size: int | None = 64,
        clip_range: float = 0.2,
        entropy_coef: float = 0.0,
        value_coef: float = 0.5,
        normalise_advantage: bool = True,
        max_grad_norm: float | None = 0.5,
        final_lr: float | None = None,
        anneal_clip: bool = False,
        normalise_obs: bool = False,
        normalise_reward: bool = False,
        window: int = 100,
        **task: Any,
    ) -> None:
        if algorithm not in ("ppo", "a2c"):
            raise ValueError(f"method.algorithm must be ppo or a2c, got {algorithm!r}")
        for name, share in (("gamma", gamma), ("gae_lambda", gae_lambda)):
            if not 0 <= share <= 1:
                raise ValueError(f"method.{name} must be in [0, 1], got {share}")
        for name, number in (("epochs", epochs), ("batch_size", batch_size or 1), ("window", window)):
            if number < 1:
                raise ValueError(f"method.{name} must be at least 1, got {number}")
        if clip_range <= 0:
            raise ValueError(f"method.clip_range must be positive, got {clip_range}")
        super().__init__(**task)
        self.automatic_optimization = False
        self.algorithm, self.gamma, self.gae_lambda = algorithm, gamma, gae_lambda
        self.epochs, self.batch_size, self.clip_range, self.anneal_clip = epochs, batch_size, clip_range, anneal_clip
        self.entropy_coef, self.value_coef, self.normalise_advantage = entropy_coef, value_coef, normalise_advantage
        self.max_grad_norm, self.final_lr = max_grad_norm, final_lr
        self.normalise_obs, self.normalise_reward = normalise_obs, normalise_reward
        self.last_returns: deque[float] = deque(maxlen=window)
        self.steps = self.episodes = 0
        self.obs_norm: RunningNorm | None = None
        self.return_norm: RunningNorm | None = None
        self.discounted: Tensor | None = None

    # What a method defines -----------------------------------------------------------------

    def outputs(self, obs: Tensor) -> Tensor:
        """Outputs for observations :math:`(B, *)`: :math:`(B, A + 1)`, the value last."""
        return self.model(obs)

    def improve(self, rollout: Batch, rows: Tensor) -> dict[str, Tensor]:
        """A step on some rows of a rollout.

        Args:
            rollout: Columns of length :math:`TN`: ``obs, action, log_prob, advantage, return``, and ``outputs`` as
                they were when acting, without a gradient.
            rows: Numbers of the rows :math:`(B)`.

        Returns:
            The losses of the minibatch before the step, by name.
        """
        loss, losses = total(self.objective(self.outputs(rollout["obs"][rows]), rollout, rows))
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.anneal(optimizer)
        optimizer.zero_grad()
        loss.backward()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        optimizer.step()
        return losses

    @property
    def actions(self) -> Choice | Gaussian:
        """The distribution of actions."""
        log_std = getattr(getattr(self, "model", None), "log_std", None)
        return Choice() if log_std is None else Gaussian(log_std)

    # Objective -----------------------------------------------------------------------------

    def objective(self, outputs: Tensor, rollout: Batch, rows: Tensor) -> dict[str, Tensor]:
        """Losses of a minibatch, that are summed."""
        log_prob, entropy = self.actions.log_prob_and_entropy(outputs[:, :-1], rollout["action"][rows])
        advantage = rollout["advantage"][rows]
        if self.normalise_advantage and len(rows) > 1:
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        if self.algorithm == "ppo":
            clip = self.clip_range * (1 - self.progress() if self.anneal_clip else 1)
            policy = clipped_surrogate(log_prob, rollout["log_prob"][rows], advantage, clip)
        else:
            policy = score_function(log_prob, advantage)
        return {
            "policy": policy,
            "entropy": -self.entropy_coef * entropy.mean(),
            "value": self.value_coef * F.mse_loss(outputs[:, -1], rollout["return"][rows]),
        }

    def progress(self) -> float:
        """Share of the training that lay behind when the rollout began."""
        done = self.trainer.fit_loop.epoch_loop.total_batch_idx
        assert self.trainer.max_epochs is not None
        return max(done, 0) / (self.trainer.max_epochs * self.trainer.num_training_batches)

    def anneal(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the learning rate for the rollout, where it falls."""
        if self.final_lr is None:
            return
        for group in optimizer.param_groups:
            first = group.setdefault("initial_lr", group["lr"])
            group["lr"] = first + self.progress() * (self.final_lr - first)

    # Rollouts ------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        rollout = self.collect()
        size = len(rollout["obs"])
        stepped: list[dict[str, Tensor]] = []
        for _ in range(self.epochs):
            order = torch.randperm(size, generator=self.streams.order.torch).to(self.device)
            stepped += [self.improve(rollout, rows) for rows in order.split(self.batch_size or size)]
        means = {name: torch.stack([losses[name].detach() for losses in stepped]).mean() for name in stepped[0]}
        self.meters["train"].update(means, rollout["obs"][:0], batch["index"])
        if self.last_returns:
            self.record("returns", [{"steps": self.steps, "return": self.mean_return()}])

    @torch.no_grad()
    def collect(self) -> Batch:
        """Act ``n_steps`` times in every environment; rows of the result go through environments, then steps."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        environments, length, number = data.environments, data.n_steps, data.num_envs
        chosen = self.actions
        noise = chosen.noise(length, number, data.num_actions, generator=self.streams.noise.torch)
        columns: dict[str, list[Tensor]] = {name: [] for name in ("obs", "action", "outputs", "reward", "ended")}
        for t in range(length):
            obs = self.prepare(environments.observations, learn=True)
            outputs = self.outputs(obs)
            action = chosen.sample(outputs[:, :-1], noise[t])
            taken = action.cpu().numpy()
            step = environments.step(taken if data.low is None else np.clip(taken, data.low, data.high))
            self.count(step.finished, number)
            reward = self.scaled(torch.from_numpy(step.rewards), torch.from_numpy(step.ended)).to(self.device)
            if step.truncated:
                cut = torch.tensor(list(step.truncated), device=self.device)
                beyond = self.outputs(self.prepare(np.stack(list(step.truncated.values()))))[:, -1]
                reward[cut] += self.gamma * beyond
            ended = torch.from_numpy(step.ended).to(self.device)
            for name, value in zip(columns, (obs, action, outputs, reward, ended), strict=True):
                columns[name].append(value)
        last = self.outputs(self.prepare(environments.observations))[:, -1]
        stacked = {name: torch.stack(values) for name, values in columns.items()}
        values = stacked["outputs"][..., -1]
        advantage = generalised_advantages(
            stacked.pop("reward"), values, last, stacked.pop("ended"), gamma=self.gamma, decay=self.gae_lambda
        )
        stacked |= {"advantage": advantage, "return": advantage + values}
        rollout = {name: value.flatten(0, 1) for name, value in stacked.items()}
        rollout["log_prob"] = chosen.log_prob_and_entropy(rollout["outputs"][:, :-1], rollout["action"])[0]
        return rollout

    def prepare(self, observations: np.ndarray[Any, Any], learn: bool = False) -> Tensor:
        """Observations as the policy sees them, :math:`(B, *)`."""
        obs = torch.from_numpy(observations).to(self.device)
        if self.obs_norm is None:
            return obs
        if learn:
            self.obs_norm.update(obs)
        return self.obs_norm(obs)

    def scaled(self, reward: Tensor, ended: Tensor) -> Tensor:
        """Rewards as the advantages see them, :math:`(N)`."""
        if self.return_norm is None:
            return reward
        assert self.discounted is not None
        self.discounted = self.gamma * self.discounted + reward
        self.return_norm.update(self.discounted)
        self.discounted = torch.where(ended, 0.0, self.discounted)
        return self.return_norm.scale(reward)

    def count(self, finished: list[tuple[float, int]], steps: int) -> None:
        """Take note of a step of all environments."""
        self.steps += steps
        self.episodes += len(finished)
        self.last_returns.extend(value for value, _ in finished)

    def mean_return(self) -> float:
        """Of the last episodes."""
        return sum(self.last_returns) / len(self.last_returns)

    # Hooks ---------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if self.normalise_obs and self.obs_norm is None:
            self.obs_norm = RunningNorm(*data.obs_shape)
        if self.normalise_reward and self.return_norm is None:
            self.return_norm, self.discounted = RunningNorm(), torch.zeros(data.num_envs)

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.return_norm is not None:
            self.return_norm.cpu()  # rewards come from the environments

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if not self.last_returns:
            return
        self.log("val/return", self.mean_return())
        if self.trainer.max_epochs is not None and self.trainer.current_epoch + 1 == self.trainer.max_epochs:
            self.log_dict({"test/return": self.mean_return(), "test/episodes": float(self.episodes)})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["replicata"]["rollouts"] = {
            "returns": list(self.last_returns),
            "steps": self.steps,
            "episodes": self.episodes,
            "discounted": self.discounted,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        state: Mapping[str, Any] = checkpoint["replicata"]["rollouts"]
        self.last_returns.extend(state["returns"])
        self.steps, self.episodes, self.discounted = state["steps"], state["episodes"], state["discounted"]


class RandomPolicy(OnPolicy):
    """Takes any action with equal probability (or standard normal ones), and never learns.

    Args:
        num_actions: Actions to choose from, or coordinates of an action.
        continuous: Whether an action is a vector of numbers.
        window: Episodes of the mean return.
        **task: See :class:`~replicata.tasks.base.Task`.
    """

    def __init__(self, num_actions: int, continuous: bool = False, window: int = 100, **task: Any) -> None:
        super().__init__(window=window, epochs=1, batch_size=None, **task)
        self.num_actions, self.continuous = num_actions, continuous

    @property
    def actions(self) -> Choice | Gaussian:
        return Gaussian(torch.zeros(self.num_actions)) if self.continuous else Choice()

    def outputs(self, obs: Tensor) -> Tensor:
        return obs.new_zeros(len(obs), self.num_actions + 1)

    def improve(self, rollout: Batch, rows: Tensor) -> dict[str, Tensor]:
        return total(self.objective(rollout["outputs"][rows], rollout, rows))[1]
