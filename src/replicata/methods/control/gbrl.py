r"""GBRL: Gradient Boosting Reinforcement Learning.

Fuhrer, Tessler, Dalal, ICML 2025. https://arxiv.org/abs/2407.08250
Official code: https://github.com/NVlabs/gbrl (trees), https://github.com/NVlabs/gbrl_sb3 (algorithms, experiments)

Policy and value are a sum of decision trees instead of a network. A step of training takes the gradient of PPO's (or
A2C's) loss by the *outputs* at the observations of a minibatch, and fits one more tree to it: gradient descent in the
space of functions, along a path that is never fitted anew. Words as features need no encoding.

.. math::
    F(x) &= -\sum_k \eta \odot w_{k,\,\mathrm{leaf}_k(x)}
        \qquad \text{(logits or means, and the value last; } \eta_\pi \text{ and } \eta_v \text{)}       \quad (1)\\
    g_i &= B\, \frac{\partial L}{\partial F(x_i)}
        \qquad \text{(of the example's own loss, since } L \text{ is the mean over } B \text{)}           \quad (2)\\
    g_i^\pi &\leftarrow g_i^\pi \min(1,\, c_\pi / \|g_i^\pi\|), \qquad
        g_i^v \leftarrow \mathrm{clip}(g_i^v,\, -c_v,\, c_v)                                             \quad (3)\\
    w_{k,l} &= \frac{1}{|l|} \sum_{i \in l} g_i                                                          \quad (4)\\
    \mathrm{score}(L, R) &= \frac{\sum_{i \in L} g_i \cdot \bar g_L + \sum_{i \in R} g_i \cdot \bar g_R}
        {\sqrt{|L|\, \|\bar g_L\|^2 + |R|\, \|\bar g_R\|^2}}
        = \sqrt{|L|\, \|\bar g_L\|^2 + |R|\, \|\bar g_R\|^2}                                             \quad (5)

Trees are oblivious, of four levels, and choose splits by the *cosine* score (5); ``l2`` is (5) without the root, on
gradients that are standardised per output. *Shared*: one tree a step for policy and value, so that both see its splits.
*Separate*: two. The paper proposes to share; the defaults of its scripts are separate trees. Here are both.

The loss is that of :class:`~replicata.tasks.on_policy.OnPolicy`, with :math:`c_v = 0.436`: the code's 0.871923 times
the half that it puts before the squared error in PPO (in A2C it does not). Deviations of a Gaussian policy do not
depend on the state and are learned by Adam. There is no first fit: a fresh model is the uniform policy with value 0.

Sources of defaults: scores, growth, quantiles, scaling, clipping and rates are those of the official code; trees were
compared with those of its version 1.1.6, and are equal up to ties. The laptop study's settings, on Fetch4 and for its
budget on CartPole, are ours, with rates about the published ones and tuned.
Departures: AWR, with its replay buffer, and control variates (off by default there) are left out; so are Atari RAM
and Football. The code gives a tree without any question a leaf of zero, here it is (4). A feature's equal quantiles
are one question whatever else there is. 256 quantiles, the library's default, where the scripts' is 250. Rates are
constant, as in all scripts. At paper scale returns are those of training episodes, by the scripts' default, and
networks explore by Gaussian noise where theirs have gSDE. The arm with the authors' package is in the study at paper
scale alone, which needs packages anyhow. What the paper's tables say is not known to us beyond the abstract. Noise
features of words instead of the paper's noise on numbers: reconstructed.
"""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.errors import UserError
from replicata.metrics.timing import MIN_BLOCKS, interleaved, median_seconds
from replicata.models.tree_ensemble import TreeEnsemble
from replicata.nn.histogram_trees import Score, Spacing, Tree
from replicata.tasks.base import total
from replicata.tasks.on_policy import OnPolicy

LOG_STD = -2.0  # of a Gaussian policy, at first


class TreeActorCritic(nn.Module):
    """Policy and value as trees, Eq. (1): shared ones, or two ensembles.

    Args:
        num_actions: Actions :math:`A` to choose from, or coordinates of an action.
        num_words: Words of a feature, ``None``: features are numbers.
        continuous: Whether an action is a vector of numbers.
        shared: Whether a step adds one tree for all outputs.
        depth, oblivious, score, n_bins, spacing: See :class:`~replicata.models.tree_ensemble.TreeEnsemble`.

    Shapes:
        - input: :math:`(B, F)`; output: :math:`(B, A + 1)`, the value last.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        num_words: int | None = None,
        continuous: bool = False,
        shared: bool = True,
        depth: int = 4,
        oblivious: bool = True,
        score: Score = "cosine",
        n_bins: int = 256,
        spacing: Spacing = "quantile",
    ) -> None:
        super().__init__()
        trees: dict[str, Any] = {
            "depth": depth, "oblivious": oblivious, "score": score, "n_bins": n_bins, "spacing": spacing,
        }  # fmt: skip
        self.settings = {"num_actions": num_actions, "num_words": num_words, "continuous": continuous, **trees}
        self.sizes = [num_actions + 1] if shared else [num_actions, 1]
        self.ensembles = nn.ModuleList(TreeEnsemble(size, words=num_words is not None, **trees) for size in self.sizes)
        self.log_std = nn.Parameter(torch.full((num_actions,), LOG_STD)) if continuous else None

    @property
    def trees(self) -> int:
        return sum(len(ensemble) for ensemble in self.members())

    @property
    def nbytes(self) -> int:
        return sum(ensemble.nbytes for ensemble in self.members())

    def like(self, *, shared: bool) -> TreeActorCritic:
        """A fresh one with the same settings."""
        return TreeActorCritic(shared=shared, **self.settings)

    def members(self) -> Sequence[TreeEnsemble]:
        return [ensemble for ensemble in self.ensembles if isinstance(ensemble, TreeEnsemble)]

    def boost(self, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        """Add a tree to each ensemble, by gradients :math:`(B, A + 1)` and rates :math:`(A + 1)`."""
        parts = zip(self.members(), gradients.split(self.sizes, 1), rates.split(self.sizes), strict=True)
        for ensemble, gradient, rate in parts:
            self.fit(ensemble, x, gradient, rate)

    def fit(self, ensemble: TreeEnsemble, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        ensemble.boost(x, gradients, rates)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([ensemble(x) for ensemble in self.members()], 1)

    def last(self, x: Tensor) -> Tensor:
        """What the latest step has added to the outputs."""
        return torch.cat([ensemble(x, len(ensemble) - 1) for ensemble in self.members()], 1)


class GBRL(OnPolicy):
    r"""PPO or A2C by gradient-boosted trees.

    Metrics beside those of :class:`~replicata.tasks.on_policy.OnPolicy`: ``cost/trees`` and ``cost/model_bytes`` of
    the questions and leaves. Table ``ensemble``: both by ``steps`` of all environments together, at each epoch's end.

    Args:
        policy_lr, value_lr: :math:`\eta_\pi` and :math:`\eta_v`.
        rate_scale: Factor of both.
        policy_clip, value_clip: :math:`c_\pi` and :math:`c_v` of Eq. (3); ``None``: gradients are not clipped.
        **task: See :class:`~replicata.tasks.on_policy.OnPolicy`; ``model`` is a :class:`TreeActorCritic`, and
            ``optimizer`` is that of the deviations of a Gaussian policy.
    """

    model: TreeActorCritic

    def __init__(
        self,
        policy_lr: float,
        value_lr: float,
        *,
        rate_scale: float = 1.0,
        policy_clip: float | None = None,
        value_clip: float | None = None,
        **task: Any,
    ) -> None:
        for name, rate in (("policy_lr", policy_lr), ("value_lr", value_lr), ("rate_scale", rate_scale)):
            if rate <= 0:
                raise ValueError(f"method.{name} must be positive, got {rate}")
        super().__init__(**task)
        self.policy_lr, self.value_lr = policy_lr * rate_scale, value_lr * rate_scale
        self.policy_clip, self.value_clip = policy_clip, value_clip

    def improve(self, rollout: Batch, rows: Tensor) -> dict[str, Tensor]:
        """Fit a tree; the outputs of the rollout go along, so that no tree is read twice."""
        outputs = rollout["outputs"][rows].requires_grad_()
        loss, losses = total(self.objective(outputs, rollout, rows))
        loss.backward()
        assert outputs.grad is not None
        gradients = clipped(outputs.grad * len(rows), self.policy_clip, self.value_clip)  # Eqs. (2) and (3)
        rates = gradients.new_full((gradients.shape[1],), self.policy_lr)
        rates[-1] = self.value_lr
        self.fit(rollout["obs"][rows], gradients, rates)
        rollout["outputs"] += self.model.last(rollout["obs"])
        if self.model.log_std is not None:
            self.step_deviations(self.model.log_std)
        return losses

    def fit(self, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        """Eqs. (4) and (5)."""
        self.model.boost(x, gradients, rates)

    def step_deviations(self, log_std: nn.Parameter) -> None:
        """Adam's step for the deviations of a Gaussian policy."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        self.anneal(optimizer)
        if self.policy_clip is not None:
            torch.nn.utils.clip_grad_norm_([log_std], self.policy_clip)
        optimizer.step()
        optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return None if self.model.log_std is None else super().configure_optimizers()

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        trees, size = self.model.trees, self.model.nbytes
        self.log_dict({"cost/trees": float(trees), "cost/model_bytes": float(size)})
        self.record("ensemble", [{"steps": self.steps, "trees": trees, "bytes": size}])


def clipped(gradients: Tensor, policy: float | None, value: float | None) -> Tensor:
    """Eq. (3): the policy's row by its norm, the value's entry (the last column) by its size."""
    own, last = gradients[:, :-1], gradients[:, -1:]
    if policy is not None:
        norm = own.norm(dim=1, keepdim=True)
        own = torch.where(norm > policy, own * (policy / norm.clamp_min(1e-30)), own)
    if value is not None:
        last = last.clamp(-value, value)
    return torch.cat([own, last], 1)


# Peers --------------------------------------------------------------------------------------


class SklearnTrees(TreeActorCritic):
    """Trees by scikit-learn's ``DecisionTreeRegressor``, fitted to the same gradients: greedy, by the squared error.

    Words are given to it one-hot. What it has fitted goes on as a tree of ours.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        num_words: int | None = None,
        continuous: bool = False,
        shared: bool = True,
        depth: int = 4,
    ) -> None:
        super().__init__(
            num_actions, num_words=num_words, continuous=continuous, shared=shared, depth=depth, oblivious=False
        )
        self.num_words, self.depth = num_words, depth

    def fit(self, ensemble: TreeEnsemble, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        from sklearn.tree import DecisionTreeRegressor

        seen = x.cpu().numpy()
        if self.num_words is not None:
            seen = np.eye(self.num_words, dtype=np.float32)[seen.astype(np.int64)].reshape(len(x), -1)
        fitted = DecisionTreeRegressor(max_depth=self.depth, random_state=0).fit(seen, gradients.cpu().numpy())
        tree = self.converted(fitted.tree_, ensemble.outputs)
        ensemble.add(Tree(*(part.to(x.device) for part in tree)), rates)

    def converted(self, fitted: Any, outputs: int) -> Tree:
        """A scikit-learn tree in level order; a question of nobody follows a leaf."""
        features = np.zeros(2**self.depth - 1, np.int64)
        values = np.full(2**self.depth - 1, np.inf, np.float32)
        leaves = np.zeros((2**self.depth, outputs))
        pending = [(0, 0, 0)]  # node there, place among its level here, level
        while pending:
            node, place, level = pending.pop()
            left, right = fitted.children_left[node], fitted.children_right[node]
            if left < 0:
                leaves[place << (self.depth - level)] = fitted.value[node, :, 0]
                continue
            here = 2**level - 1 + place
            column = fitted.feature[node]
            if self.num_words is None:
                features[here], values[here] = column, below(fitted.threshold[node])
            else:
                features[here], values[here] = divmod(column, self.num_words)
            pending += [(left, 2 * place, level + 1), (right, 2 * place + 1, level + 1)]
        return Tree(torch.from_numpy(features), torch.from_numpy(values), torch.from_numpy(leaves))


def below(threshold: float) -> np.float32:
    """The greatest 32-bit number that is not above a threshold: scikit-learn compares these with 64-bit ones."""
    rounded = np.float32(threshold)
    return rounded if float(rounded) <= threshold else np.nextafter(rounded, np.float32(-np.inf))


class PackageTrees(nn.Module):
    """The authors' package behind the interface of :class:`TreeActorCritic`.

    Args:
        num_actions, num_words, continuous, shared: As there.
        depth, n_bins, oblivious, score: As in :class:`~replicata.models.tree_ensemble.TreeEnsemble`.

    Raises:
        UserError: if the package is not installed.
    """

    def __init__(
        self,
        num_actions: int,
        *,
        num_words: int | None = None,
        continuous: bool = False,
        shared: bool = True,
        depth: int = 4,
        n_bins: int = 256,
        oblivious: bool = True,
        score: str = "cosine",
    ) -> None:
        try:
            import gbrl.models.actor_critic  # noqa: F401
        except ImportError as error:
            raise UserError("model: the package gbrl is not installed; pip install 'replicata[control]'") from error
        super().__init__()
        self.num_actions, self.shared, self.continuous = num_actions, shared, continuous
        self.log_std = nn.Parameter(torch.full((num_actions,), LOG_STD)) if continuous else None
        self.words = None if num_words is None else np.array([str(n).encode() for n in range(num_words)], "S128")
        self.structure: dict[str, Any] = {"max_depth": depth, "n_bins": n_bins, "min_data_in_leaf": 0, "par_th": 2}
        self.structure["grow_policy"] = "oblivious" if oblivious else "greedy"
        self.parameters_of = {"split_score_func": score, "generator_type": "Quantile", "control_variates": False}
        self.package: Any = None  # made with the first step, which brings the rates

    def seen(self, x: Tensor) -> Any:
        numbers = x.detach().cpu().numpy()
        return numbers if self.words is None else self.words[numbers.astype(np.int64)]

    def boost(self, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        from gbrl.models.actor_critic import ActorCritic

        if self.package is None:
            first = self.num_actions if self.shared else 0
            self.package = ActorCritic(
                tree_struct=self.structure,
                input_dim=x.shape[1],
                output_dim=self.num_actions + 1,
                policy_optimizer={"algo": "SGD", "lr": float(rates[0]), "start_idx": 0, "stop_idx": self.num_actions},
                value_optimizer={"algo": "SGD", "lr": float(rates[-1]), "start_idx": first, "stop_idx": first + 1},
                shared_tree_struct=self.shared,
                params=self.parameters_of,
                device="cpu",
            )
        policy, value = np.split(gradients.detach().cpu().numpy().astype(np.float32), [-1], 1)
        self.package.step(self.seen(x), policy_grads=policy.copy(), value_grads=value[:, 0].copy())

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        if self.package is None:
            return x.new_zeros(len(x), self.num_actions + 1)
        policy, value = self.package(self.seen(x), requires_grad=False, start_idx=first, tensor=False)
        outputs = np.concatenate([policy.reshape(len(x), -1), value.reshape(len(x), 1)], 1)
        return torch.from_numpy(outputs).to(x.device)

    def last(self, x: Tensor) -> Tensor:
        return self(x, self.iterations() - 1)

    def iterations(self) -> int:
        found = self.package.get_iteration() if self.package is not None else 0
        return int(found[0] if isinstance(found, tuple) else found)

    @property
    def trees(self) -> int:
        return self.iterations() * (1 if self.shared else 2)

    @property
    def nbytes(self) -> int:
        return sum(len(content) for content in self.files().values())

    def files(self) -> Mapping[str, bytes]:
        """What the package saves of itself, by file name."""
        if self.package is None:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            self.package.save_learner(str(Path(folder) / "trees"))
            return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}

    def get_extra_state(self) -> dict[str, Tensor]:
        return {name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in self.files().items()}

    def set_extra_state(self, state: Mapping[str, Tensor]) -> None:
        from gbrl.models.actor_critic import ActorCritic

        if not state:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state.items():
                (Path(folder) / name).write_bytes(content.numpy().tobytes())
            self.package = ActorCritic.load_learner(str(Path(folder) / "trees"), "cpu")
        if not self.shared:  # what was loaded has one count for both
            self.package.learner.iteration = list(self.package.get_iteration())


# What is measured ---------------------------------------------------------------------------


class FitTime(GBRL):
    """Times a step with shared trees against one with separate trees, on the same minibatches by turns.

    It trains as :class:`GBRL` does; then each of the last minibatches is a block. Reported as the panels
    ``shared_timed`` and ``separate_timed`` with ``cost/fit_s``: seconds of a step, the median over blocks. Table
    ``times``: raw samples.

    Args:
        blocks: Minibatches that are kept; they come again where fewer than thirty were seen.
        repeats: Steps in one sample.
        **task: See :class:`GBRL`.
    """

    exclusive: ClassVar[bool] = True

    def __init__(self, blocks: int = 64, repeats: int = 3, **task: Any) -> None:
        super().__init__(**task)
        self.repeats = repeats
        self.blocks: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=blocks)

    def fit(self, x: Tensor, gradients: Tensor, rates: Tensor) -> None:
        super().fit(x, gradients, rates)
        self.blocks.append((x, gradients, rates))

    def on_train_epoch_end(self) -> None:
        super().on_train_epoch_end()
        if self.trainer.current_epoch + 1 != self.trainer.max_epochs:
            return
        trees = {"shared": self.model.like(shared=True), "separate": self.model.like(shared=False)}
        timed = {name: model.to(self.device).boost for name, model in trees.items()}
        blocks = list(islice(cycle(self.blocks), max(MIN_BLOCKS, len(self.blocks))))
        samples = interleaved(timed, blocks, repeats=self.repeats)
        self.record("times", samples)
        for name, seconds in median_seconds(samples).items():
            self.report(f"{name}_timed", {"cost/fit_s": seconds})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["replicata"]["blocks"] = [list(block) for block in self.blocks]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.blocks.extend(tuple(block) for block in checkpoint["replicata"]["blocks"])


# What the study derives ---------------------------------------------------------------------


def relative_score(run: Mapping[str, Any], *others: Mapping[str, Any]) -> float:
    """Derived column: a run's return on the scale on which the random policy is 0 and the network 1."""
    track = "_cartpole" if run["arm"].endswith("_cartpole") else ""
    lowest, highest = (score(others, name + track) for name in ("random_policy", "nn_ppo"))
    return (run["metrics"]["test/return"] - lowest) / (highest - lowest)


def noise_cost(run: Mapping[str, Any], *others: Mapping[str, Any]) -> float:
    """Derived column: how much lower the return is than that of the same learner without noise features."""
    return score(others, run["arm"].removesuffix("_noise")) - run["metrics"]["test/return"]


def score(runs: Sequence[Mapping[str, Any]], arm: str) -> float:
    """Return of an arm among other runs."""
    return next(run["metrics"]["test/return"] for run in runs if run["arm"] == arm)
