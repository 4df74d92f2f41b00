r"""Featherweight Assisted Vulnerability Discovery.

Binkley, Moonen, Isaacman, Information and Software Technology 146, 2022. https://arxiv.org/abs/2202.02679, code and
data: https://github.com/secureIT-project/FAVD. The network it studies: https://github.com/StablelJay/LAVDNN

How much of what a deep network knows about vulnerable functions lies in the words of their names? A name is split into
words, words are ranked by how dangerous they are, and a function is flagged when enough of its words are at the top of
the list: without a network (FAVD_F), or with the network's opinion of each single word as the ranking (FAVD_L).

With :math:`v(w)` and :math:`b(w)` the occurrences of a word in vulnerable and benign training names, :math:`U` the
different words of a name, :math:`D` the first :math:`K` words of the list and :math:`r_D(w)` the place in it from 0:

.. math::
    \mathrm{FAVD_F}: \quad d(w) &= p\,v(w) - m\,b(w)                                                       \quad (1)\\
    \mathrm{FAVD_L}: \quad d(w) &= \max_{0 \le i < 50 - |w|} \mathrm{LAVDNN}(\text{blank}^i\, w)           \quad (2)\\
    s(\text{name}) &= \frac{1}{|U|} \sum_{w \in U \cap D} \frac{K - r_D(w)}{K}
        \quad \text{or, as a set,} \quad \frac{|U \cap D|}{|U|}                                            \quad (3)\\
    \text{vulnerable} &\iff s(\text{name}) > \theta                                                        \quad (4)\\
    F_2 &= \frac{5\,tp}{5\,tp + 4\,fn + fp}                                                                \quad (5)

:math:`K`, :math:`\theta` and, for FAVD_F, :math:`(p, m)` are those with the highest :math:`F_2` on the training names.
The search over :math:`K` takes twenty steps through the list and then goes nearer to the best so far, ten times finer
each time; a later value has to be better, a later pair of weights at least as good (the authors' code).

Protocol: five folds of each project, :math:`F_2` averaged over folds, then over projects; or each project against
the others. With the seed 99 the folds are the paper's own.

Departures: the text does not give all of the above; where it is silent this follows the authors' code, without its
thirteenth pair of weights, (10, 1), which the paper's figures for the six projects do not have (it was added for
VDISC). They train one network, on other projects; here it is trained on the training names of each fold, so that no
test name is known to it, with classes weighted by their size. Its threshold maximises :math:`F_2` on the training
names, as :math:`K` does. At laptop scale it is smaller, has torch's LSTM (hyperbolic tangents) and fewer epochs: see
the experiment. Its dropout falls on the inputs of the last layer and of the output as well. The classical baselines
are ours: their threshold maximises :math:`F_2` on predictions for training names that were held out.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryFBetaScore

from replicata.data.loaders import Batch
from replicata.data.module import Split, take
from replicata.data.text.characters import Characters
from replicata.data.text.names import Unit
from replicata.errors import UserError
from replicata.metrics.threshold import best_threshold, count_above, f_beta
from replicata.metrics.timing import interleaved, median_seconds
from replicata.tasks.procedure import Procedure
from replicata.tasks.supervised import Classification

THRESHOLDS = np.array([0.01, 0.16, 0.19, 0.24, 0.32, 0.39, 0.49, 0.59, 0.66, 0.74, 0.79, 0.82, 0.99])
WEIGHTS = ((3, 4), (1, 1), (3, 2), (7, 4), (2, 1), (9, 4), (5, 2), (11, 4), (3, 1), (7, 2), (4, 1), (5, 1))
BETA = 2.0


class WordSets:
    """Names as the words that each of them has.

    Args:
        split: ``words`` :math:`(N, W)` by number, padded with -1, and ``y`` :math:`(N)`.

    Attributes:
        tokens, owners: Every occurrence of a word in reading order, and the name it stands in.
        vulnerable: Labels :math:`(N)`.
    """

    def __init__(self, split: Mapping[str, Tensor]) -> None:
        words = split["words"].numpy()
        self.vulnerable = split["y"].numpy() == 1
        self.owners, _ = present = np.nonzero(words >= 0)
        self.tokens = words[present]
        base = int(words.max(initial=0)) + 1
        pairs = np.unique(self.owners * base + self.tokens)
        self._name, self._word = pairs // base, pairs % base  # each word of a name once: U
        self._different = np.bincount(self._name, minlength=len(words)).clip(1)

    def __len__(self) -> int:
        return len(self.vulnerable)

    def vocabulary(self) -> np.ndarray:
        """The different words, as they come up."""
        words, first = np.unique(self.tokens, return_index=True)
        return words[first.argsort()]

    def counts(self, words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Occurrences :math:`v, b` of given words in vulnerable and benign names."""
        size = int(max(words.max(initial=0), self.tokens.max(initial=0))) + 1
        vulnerable = self.vulnerable[self.owners]
        both = (np.bincount(self.tokens[kind], minlength=size)[words] for kind in (vulnerable, ~vulnerable))
        return next(both), next(both)

    def scorer(self, dangerous: np.ndarray, form: str) -> Callable[[int], np.ndarray]:
        """Eq. (3) for a ranked list of words: a function of :math:`K`.

        All sums are of whole numbers, so that a score equal to a threshold is exactly that.
        """
        place = np.full(int(max(self._word.max(initial=0), dangerous.max(initial=0))) + 1, len(dangerous))
        place[dangerous] = np.arange(len(dangerous))
        places = place[self._word]
        order = places.argsort(kind="stable")
        places, names = places[order], self._name[order]

        def score(k: int) -> np.ndarray:
            known = int(np.searchsorted(places, k))  # those in D come first
            worth = k - places[:known] if form == "ranks" else np.full(known, k)
            return np.bincount(names[:known], worth, len(self)) / (k * self._different)

        return score


@dataclass(frozen=True)
class Best:
    """The best cut of a list: F2, number of words, threshold."""

    f2: float = -1.0
    k: int = 0
    threshold: float = math.inf


def search(names: WordSets, dangerous: np.ndarray, form: str) -> Best:
    """:math:`K` and :math:`\\theta` with the highest F2, of equals the first that is met."""
    score = names.scorer(dangerous, form)
    positives = int(names.vulnerable.sum())
    best = Best()
    start, stop, step = 1, len(dangerous) + 1, max(1, len(dangerous) // 20)
    while step >= 1 and len(dangerous):
        for k in (*range(start, stop, step), stop - 1):
            values = f_beta(*count_above(score(k), names.vulnerable, THRESHOLDS), positives, BETA)
            place = int(values.argmax())
            if values[place] > best.f2:
                best = Best(float(values[place]), k, float(THRESHOLDS[place]))
        start, stop, step = max(1, best.k - step), min(len(dangerous) + 1, best.k + step), step // 10
    return best


def f2_of_list(names: WordSets, dangerous: np.ndarray, best: Best, form: str) -> float:
    """F2 (5) of a list that was cut on other names."""
    return f2_above(names.scorer(dangerous, form)(best.k), names.vulnerable, best.threshold)


def f2_above(scores: np.ndarray, labels: np.ndarray, threshold: float) -> float:
    """F2 of what is above a threshold (4)."""
    return float(f_beta(*count_above(scores, labels, np.array([threshold])), int(labels.sum()), BETA)[0])


def rank_by_counts(names: WordSets, plus: float, minus: float, min_score: float | None = None) -> np.ndarray:
    """Eq. (1): the words, most dangerous first, of equals the one met first."""
    words = names.vocabulary()
    vulnerable, benign = names.counts(words)
    return rank_by_score(words, plus * vulnerable - minus * benign, min_score)


def rank_by_score(words: np.ndarray, score: np.ndarray, min_score: float | None = None) -> np.ndarray:
    """Words with a score of at least ``min_score``, highest first."""
    order = (-score).argsort(kind="stable")
    return words[order if min_score is None else order[score[order] >= min_score]]


class NamePredictor(Procedure):
    """Trains and tests on one unit of the data after the other: a fold of a project, or a project against the others.

    Metrics, each the mean over folds and then over projects: ``test/f2``; ``train/f2``; ``val/f2`` or
    ``test/f2_oracle`` where the predictor has it; and by project ``test/f2_<project>``.

    Tables: ``folds`` (one row a unit), ``projects`` (means by project).

    Args:
        fraction: Share of the training names that is used, the first ones of the shuffled order.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"x", "words", "y"})

    def __init__(self, fraction: float = 1.0, **task: Any) -> None:
        if not 0 < fraction <= 1:
            raise ValueError(f"method.fraction must be above 0 and at most 1, got {fraction}")
        super().__init__(**task)
        self.fraction = fraction

    @abstractmethod
    def evaluate(self, item: int, unit: Unit, train: Split, test: Split) -> Mapping[str, float]:
        """Metrics of one unit by full name; ``test/f2`` among them."""

    @property
    def data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def units(self) -> int:
        return len(units_at_fold(self.data))

    def work(self, item: int) -> Mapping[str, float]:
        unit = units_at_fold(self.data)[item]
        splits = self.data.cut(unit)
        kept = math.ceil(self.fraction * len(splits["train"]["y"]))
        train = {name: column[:kept] for name, column in splits["train"].items()}
        metrics = dict(self.evaluate(item, unit, train, splits["test"]))
        self.record("folds", [{"project": unit.project, "fold": unit.fold, **plain(metrics)}])
        return metrics

    def finish(self) -> Mapping[str, float]:
        by_project: dict[str, dict[str, float]] = {}
        for project in self.data.projects:
            own = [m for m, unit in zip(self.results, units_at_fold(self.data), strict=True) if unit.project == project]
            if own:
                by_project[project] = {name: float(np.mean([metrics[name] for metrics in own])) for name in own[0]}
        rows = list(by_project.values())
        values = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
        for project, row in by_project.items():
            values[f"test/f2_{project}"] = row["test/f2"]
            self.record("projects", [{"project": project, "fraction": self.fraction, **plain(row)}])
        return values


def units_at_fold(data: Any) -> list[Unit]:
    """The units of a data module, or those at its fold."""
    return [unit for unit in data.units if data.fold in (None, unit.fold)]


def plain(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as columns: ``test/f2`` is ``f2``, ``train/f2`` is ``train_f2``."""
    return {name.removeprefix("test/").replace("/", "_"): value for name, value in metrics.items()}


class AllDangerous(NamePredictor):
    """Flags every function: the F2 that costs nothing."""

    def evaluate(self, item: int, unit: Unit, train: Split, test: Split) -> Mapping[str, float]:
        values = {}
        for stage, split in (("train", train), ("test", test)):
            positives = int(split["y"].sum())
            values[f"{stage}/f2"] = float(
                f_beta(np.array(positives), np.array(len(split["y"]) - positives), positives, BETA)
            )
        return values


class FAVD(NamePredictor):
    """FAVD_F: a ranked list of dangerous words, without a network.

    ``test/f2_oracle`` is the F2 with :math:`K` and :math:`\\theta` chosen on the test names.

    Tables: ``list`` (the ten most dangerous words of each unit), and by project ``roc_<project>`` and
    ``precision_<project>``, averaged over folds at equal rates, by the length of the list.

    Args:
        ranking: ``counts`` (1), or ``random``: its lists, shuffled.
        weights: Pairs :math:`(p, m)` that are tried; the paper's are :data:`WEIGHTS`, ``None``.
        min_score: Words with a lower :math:`d` are left out of the list; ``None``: none. Paper: none, or 0.
        form: ``ranks`` or ``set``, Eq. (3).
        **names: see :class:`NamePredictor`.
    """

    def __init__(
        self,
        ranking: Literal["counts", "random"] = "counts",
        weights: Sequence[Sequence[float]] | None = None,
        min_score: float | None = None,
        form: Literal["ranks", "set"] = "ranks",
        **names: Any,
    ) -> None:
        if ranking not in ("counts", "random"):
            raise ValueError(f"method.ranking must be counts or random, got {ranking!r}")
        if form not in ("ranks", "set"):
            raise ValueError(f"method.form must be ranks or set, got {form!r}")
        pairs = WEIGHTS if weights is None else tuple((pair[0], pair[1]) for pair in weights if len(pair) == 2)
        if not pairs or (weights is not None and len(pairs) != len(weights)) or min(min(pair) for pair in pairs) <= 0:
            raise ValueError(f"method.weights must be pairs of numbers above 0, got {weights}")
        super().__init__(**names)
        self.ranking, self.weights, self.min_score, self.form = ranking, pairs, min_score, form

    def evaluate(self, item: int, unit: Unit, train: Split, test: Split) -> Mapping[str, float]:
        known, unseen = WordSets(train), WordSets(test)
        best, dangerous = Best(), np.empty(0, dtype=np.int64)
        for candidate in self.lists(item, known):
            found = search(known, candidate, self.form)
            if found.f2 >= best.f2:
                best, dangerous = found, candidate
        values = {"train/f2": max(best.f2, 0.0), "test/f2": 0.0, "test/f2_oracle": 0.0}
        if len(dangerous):  # a filter may leave no word
            values["test/f2"] = f2_of_list(unseen, dangerous, best, self.form)
            values["test/f2_oracle"] = search(unseen, dangerous, self.form).f2
            self.record_curves(unit, unseen, dangerous)
        for rank, word in enumerate(dangerous[:10]):
            row = {"project": unit.project, "fold": unit.fold, "rank": rank, "word": self.data.vocabulary[word]}
            self.record("list", [row])
        return values

    def lists(self, item: int, names: WordSets) -> Iterator[np.ndarray]:
        """The ranked lists to choose from, one for each pair of weights."""
        noise = self.streams.noise.at(item).numpy
        for plus, minus in self.weights:
            dangerous = rank_by_counts(names, plus, minus, self.min_score)
            yield noise.permutation(dangerous) if self.ranking == "random" else dangerous

    def record_curves(self, unit: Unit, names: WordSets, dangerous: np.ndarray) -> None:
        """ROC and precision-recall for a twentieth, a quarter and all of the list, at rates that all folds share."""
        from sklearn.metrics import precision_recall_curve, roc_curve

        vulnerable, score = names.vulnerable, names.scorer(dangerous, self.form)
        if vulnerable.all() or not vulnerable.any():
            return
        rates = np.linspace(0, 1, 26)
        for share in (0.05, 0.25, 1.0):
            scores = score(max(1, round(share * len(dangerous))))
            false, true, _ = roc_curve(vulnerable, scores)
            precision, recall = (column[:-1] for column in precision_recall_curve(vulnerable, scores)[:2])
            length = f"{share:.0%} of the words"
            curves = {
                "roc": np.interp(rates, false, true),
                "precision": np.interp(rates, recall[::-1], precision[::-1]),
            }
            for name, values in curves.items():
                pairs = zip(rates.tolist(), values.tolist(), strict=True)
                self.record(f"{name}_{unit.project}", [{"list": length, "rate": x, "value": y} for x, y in pairs])


class BagOfWords(NamePredictor):
    """A scikit-learn classifier on the counts of a name's words; ``val/f2`` is that of held-out training names.

    Args:
        estimator: With ``predict_proba``.
        **names: see :class:`NamePredictor`.
    """

    def __init__(self, estimator: Any, **names: Any) -> None:
        super().__init__(**names)
        self.estimator = estimator

    def evaluate(self, item: int, unit: Unit, train: Split, test: Split) -> Mapping[str, float]:
        from sklearn.base import clone
        from sklearn.model_selection import cross_val_predict

        known, unseen = WordSets(train), WordSets(test)
        words = np.sort(known.vocabulary())
        x, y = bag(known, words), known.vulnerable
        held_out = cross_val_predict(clone(self.estimator), x, y, cv=5, method="predict_proba")[:, 1]
        threshold, value = best_threshold(held_out, y, BETA)
        fitted = clone(self.estimator).fit(x, y)
        values = {"val/f2": value}
        for stage, names in (("train", known), ("test", unseen)):
            scores = fitted.predict_proba(bag(names, words))[:, 1]
            values[f"{stage}/f2"] = f2_above(scores, names.vulnerable, threshold)
        return values


def bag(names: WordSets, words: np.ndarray) -> Any:
    """Sparse counts :math:`(N, V)` of given words in ascending order; others do not count."""
    from scipy.sparse import csr_matrix

    column = np.searchsorted(words, names.tokens).clip(max=len(words) - 1)
    found = words[column] == names.tokens
    ones = np.ones(int(found.sum()))
    return csr_matrix((ones, (names.owners[found], column[found])), shape=(len(names), len(words)))


# The network --------------------------------------------------------------------------------


class LAVDNN(Classification):
    """The character network on one unit: cross-entropy with classes weighted by their size in the training names.

    Metrics: ``test/f2``, ``train/f2``, and ``val/f2`` with a ``val_fold``; ``f2_even`` of all stages at even odds.

    Args:
        rank_words: Whether the trained network also ranks the words, Eq. (2); reported as the panel ``favd_l``. It
            takes longer than the training: each word is read at each place.
        **task: see :class:`~replicata.tasks.supervised.Classification`.
    """

    def __init__(self, rank_words: bool = False, **task: Any) -> None:
        super().__init__(**task)
        self.rank_words = rank_words

    def setup(self, stage: str) -> None:
        super().setup(stage)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        units = units_at_fold(data)
        if len(units) != 1 or data.fold is None:
            raise UserError(
                f"data: a network is trained on one unit; set data.fold and one project, not {data.projects}"
            )
        self.unit = units[0]
        counts = torch.bincount(data.splits["train"]["y"], minlength=self.num_classes)
        self.class_weight = counts.sum() / (len(counts) * counts.clamp(min=1))

    def objective(self, batch: Batch, output: Tensor) -> Tensor:
        return F.cross_entropy(output, batch["y"], self.class_weight.to(output))

    def metrics(self, stage: str) -> MetricCollection:
        return MetricCollection({"f2_even": Vulnerable(BETA, validate_args=False)})

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        splits = data.cut(self.unit)  # all training names, also those that a subsample left out
        if data.val_fold is not None:
            kept = ~torch.isin(splits["train"]["row"], data.splits["val"]["row"])
            splits |= {"train": take(splits["train"], kept), "val": data.splits["val"]}
        scores = {stage: self.log_odds(split["x"]) for stage, split in splits.items()}
        labels = {stage: split["y"].numpy() == 1 for stage, split in splits.items()}
        threshold, _ = best_threshold(scores["train"], labels["train"], BETA)
        for stage in splits:
            self.log(f"{stage}/f2", f2_above(scores[stage], labels[stage], threshold))
        if self.rank_words:
            known, unseen = WordSets(splits["train"]), WordSets(splits["test"])
            words = known.vocabulary()
            spelt = [data.vocabulary[word] for word in words]
            dangerous = rank_by_score(words, word_scores(self.log_odds, spelt, data.alphabet))
            best = search(known, dangerous, "ranks")
            self.report("favd_l", {"train/f2": best.f2, "test/f2": f2_of_list(unseen, dangerous, best, "ranks")})

    def log_odds(self, x: Tensor) -> np.ndarray:
        """Logarithm of the odds, by the network, that each row :math:`(N, L)` is vulnerable."""
        logits = torch.cat([self(rows.to(self.device)) for rows in x.split(512)])
        return (logits[:, 1] - logits[:, 0]).double().cpu().numpy()


class Vulnerable(BinaryFBetaScore):
    """F-beta of two logits."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        super().update(preds.argmax(1), target)


def word_scores(log_odds: Callable[[Tensor], np.ndarray], words: Sequence[str], alphabet: Characters) -> np.ndarray:
    """Eq. (2): each word alone, the most of what a network says of it at all places of the buffer but the last."""
    scores = np.full(len(words), -np.inf)
    for shift in range(alphabet.length):
        fits = [row for row, word in enumerate(words) if shift < max(1, alphabet.length - len(word))]
        if fits:
            scores[fits] = np.maximum(scores[fits], log_odds(alphabet.encode([words[row] for row in fits], shift)))
    return 1 / (1 + np.exp(-scores))


class TrainingTime(NamePredictor):
    """Times the training of FAVD_F and of the network by turns, on the training names of the units at one fold.

    A turn of FAVD_F is its whole training; one of the network is an optimizer step, and its training takes
    ``epochs`` passes of them. Reported as the panels ``favd_f_timed`` and ``lavdnn_timed`` with ``cost/train_s``: the
    mean over projects of the median over turns, in seconds.

    Tables: ``times`` (raw samples).

    Args:
        epochs: Passes over the training names, as the network is trained.
        turns: Turns of each.
        **names: see :class:`NamePredictor`.
    """

    exclusive: ClassVar[bool] = True

    def __init__(self, epochs: int, turns: int = 30, **names: Any) -> None:
        super().__init__(**names)
        self.epochs, self.turns = epochs, turns

    def work(self, item: int) -> Mapping[str, float]:
        unit = units_at_fold(self.data)[item]
        train = self.data.cut(unit)["train"]
        vulnerable = int(train["y"].sum())
        benign = len(train["y"]) - vulnerable
        if self.data.benign_per_vulnerable is not None:
            benign = min(benign, round(self.data.benign_per_vulnerable * vulnerable))
        steps = self.epochs * math.ceil((vulnerable + benign) / self.data.batch_size)
        assert self.make_optimizer is not None
        optimizer = self.make_optimizer(self.parameters())
        x, y = (train[name][: self.data.batch_size].to(self.device) for name in ("x", "y"))

        def favd_f() -> None:
            names = WordSets(train)
            for plus, minus in WEIGHTS:
                search(names, rank_by_counts(names, plus, minus), "ranks")

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            optimizer.step()

        samples = interleaved({"favd_f": favd_f, "step": step}, [()] * self.turns, repeats=1, warm_up=2)
        self.record("times", [{"project": unit.project, **sample} for sample in samples])
        seconds = median_seconds(samples)
        return {"cost/favd_f_s": seconds["favd_f"], "cost/lavdnn_s": steps * seconds["step"]}

    def finish(self) -> Mapping[str, float]:
        values = {name: float(np.mean([metrics[name] for metrics in self.results])) for name in self.results[0]}
        for name in ("favd_f", "lavdnn"):
            self.report(f"{name}_timed", {"cost/train_s": values[f"cost/{name}_s"]})
        return values
