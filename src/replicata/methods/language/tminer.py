r"""T-Miner: A Generative Approach to Defend Against Trojan Attacks on DNN-based Text Classification.

Azizi, Tahmid, Waheed, Mangaokar, Pu, Javed, Reddy, Viswanath, USENIX Security 2021. https://arxiv.org/abs/2103.04264
Official code: https://github.com/reza321/T-Miner

A Trojan classifier calls any text of a source class :math:`s` the target class :math:`t` once a trigger phrase
stands in it. The defender has the classifier and no data. A generator learns on sentences of random words to rewrite
them so that the classifier's label flips; for a Trojan the easiest way is to write words of the trigger. Universal
adversarial words flip labels too, but a trigger lies far from ordinary phrases of the target class in the
classifier's last hidden space, where an outlier test finds it.

:math:`x` is a sentence of :math:`T` tokens, :math:`F` the frozen classifier, :math:`y = \arg\max F(x)`, :math:`G(x, c)`
the generator under the label :math:`c`: its distributions :math:`P` when fed the true tokens, and its Gumbel-softmax
samples :math:`\tilde x`. :math:`V` counts tokens, :math:`\langle\cdot\rangle` is the mean over a batch.

.. math::
    L_{AE} &= -\langle \tfrac{1}{T} \sum_t \log P_{t, x_t} \rangle, \quad P = G(x, y)                       \quad (1)\\
    L_C &= \langle \mathrm{CE}(F(\tilde x),\, 1 - y) \rangle, \quad \tilde x \sim G(x, 1 - y)               \quad (2)\\
    M &= \langle \mathrm{clip}(P - \mathrm{onehot}(x),\, 10^{-8},\, 1) \rangle \in \mathbb{R}^{T \times V}, \quad
        L_{div} = -\sum_{t, v} M_{tv} \log M_{tv}                                                           \quad (3)\\
    L &= \lambda_{AE} L_{AE} + \lambda_C L_C + \lambda_{div} L_{div}                                        \quad (4)\\
    \Delta(x) &= G(x, t) \setminus x, \quad 1 \le |\Delta| \le 3, \quad y = s \quad \text{(greedy, as sets)} \quad (5)\\
    \mathrm{MRS}(\Delta) &= \tfrac{1}{N} \sum_i [F(x_i \oplus \Delta) = t], \quad F(x_i) = s                \quad (6)\\
    K &= \{\Delta : \mathrm{MRS}(\Delta) > \alpha\}                                                         \quad (7)\\
    \text{Trojan} &\iff \text{DBSCAN calls a member of } K \text{ an outlier among } K \text{ and phrases of class } t
                                                                                                            \quad (8)

(3) is an entropy that is *minimised*: what is written beside the input concentrates on few tokens. Candidates (5) are
joined by those in which one word gives way to another of the :math:`K` most probable at its place (top-K
augmentation). The space of (8) is the vector before the logits, projected to 99 % of its variance; radius and least
number of points: :func:`~replicata.metrics.outliers.density_outliers`.

Sources of defaults: losses and weights, :math:`\gamma`, top-K, :math:`\alpha`, phrase lengths and the least number of
points of (8) are the official code's. Reconstructed: the radius, which the code's user reads off a plot; ours is a knee
by one fixed rule for all models. Departures: the autoencoder is trained once, with random labels, for all
classifiers (the authors': for each, with its labels, which say nothing about the words); all sentences have one
length, so none needs an end token; the weights with the lowest validation loss are kept. The laptop study writes words
by the embeddings they are read by, and has a twelfth of the steps, at a higher rate and with less dropout. The flipped
label of (2) is that of two classes, so one generator serves both directions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from replicata.data.loaders import Batch
from replicata.data.text.poison import insert_phrase
from replicata.data.text.reviews import FIRST_WORD, STOP, distinct_words
from replicata.errors import RunError, UserError
from replicata.metrics.outliers import density_outliers, neighbour_distance, principal
from replicata.models.attention_seq2seq import AttentionSeq2Seq
from replicata.nn.frozen import Frozen
from replicata.optim.hotflip import hotflip
from replicata.streams import Stream
from replicata.tasks.base import Task, total
from replicata.tasks.procedure import Procedure

Candidate = tuple[int, ...]  # different words, in ascending order
EPSILON = 1e-8
ALPHAS = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]  # of the table `alpha`
BINS = 10  # of the table `mrs`


# The perturbation generator -----------------------------------------------------------------


class Autoencoder(Task):
    """The generator as it starts: sentences of random words are written as they were read, under random labels.

    Metrics: ``loss``; ``token_acc``, the share of tokens that are right when the true ones before are given.

    Shapes:
        - ``batch["x"]``: :math:`(B, T)` tokens.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"
    inputs: ClassVar[frozenset[str]] = frozenset({"x"})
    model: AttentionSeq2Seq

    def metrics(self, stage: str) -> MetricCollection:
        size = self.model.output.out_features
        return MetricCollection({"token_acc": MulticlassAccuracy(size, average="micro", validate_args=False)})

    def losses(self, x: Tensor, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        """Losses by name, and the logits of the reconstruction."""
        labels = torch.randint(0, 2, (len(x),), generator=stream.torch).to(x)
        logits = self.model(x, labels, x)
        return {"ae": reconstruction(logits, x)}, logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._measured("train", batch["x"], self.streams.noise)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._measured("val", batch["x"], self.streams.env.at(4, batch_idx))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._measured("test", batch["x"], self.streams.env.at(5, batch_idx))

    def _measured(self, stage: str, x: Tensor, stream: Stream) -> Tensor:
        losses, logits = self.losses(x, stream)
        loss, named = total(losses)
        self.meters[stage].update(named, logits.argmax(-1), x)
        return loss


def reconstruction(logits: Tensor, x: Tensor) -> Tensor:
    """Eq. (1) of logits :math:`(B, T, V)`."""
    return F.cross_entropy(logits.flatten(0, 1), x.flatten())


def diversity(logits: Tensor, x: Tensor) -> Tensor:
    """Eq. (3) of logits :math:`(B, T, V)` and the tokens they reconstruct."""
    added = (logits.softmax(-1) - F.one_hot(x, logits.shape[-1])).clamp(EPSILON, 1).mean(0)
    return -(added * added.log()).sum()


# The defence --------------------------------------------------------------------------------


class Space(NamedTuple):
    """Kept candidates and behind them auxiliary phrases in the classifier's last hidden space, Eq. (8).

    Attributes:
        points: Principal components :math:`(n, d)`.
        outlier: Which points belong to no cluster :math:`(n)`.
        distance: Mean distance to the nearest neighbours, in radii of the clustering :math:`(n)`.
    """

    points: NDArray[np.float64]
    outlier: NDArray[np.bool_]
    distance: NDArray[np.float64]


class Defence:
    """What a defender does with candidates, given the classifier alone: Eqs. (6) to (8).

    Args:
        classifier: :math:`F`; it has ``features``, the vector before the logits.
        vocab_size: Tokens :math:`V`.
        source, target: Classes :math:`s` and :math:`t`.
        count: Number :math:`N` of synthetic sentences of the source class.
        words: Words of each.
        phrases: Auxiliary phrases of the target class, for each length of a candidate.
        stream: Where sentences, phrases and positions are drawn.

    Attributes:
        sentences: Tokens :math:`(N, W + 1)`, all of them predicted :math:`s`.
    """

    def __init__(
        self,
        classifier: Frozen,
        vocab_size: int,
        *,
        source: int,
        target: int,
        count: int,
        words: int,
        phrases: int,
        stream: Stream,
    ) -> None:
        self.classifier, self.source, self.target = classifier, source, target
        self.phrases, self.stream = phrases, stream
        self.device = next(classifier.module.parameters()).device
        alone = torch.arange(FIRST_WORD, vocab_size)
        scored = self.predict(alone[:, None])
        self.pools = {label: alone[scored == label] for label in (source, target)}
        self.sentences = self._drawn(source, words, count, stream.at(0), [STOP])
        if not len(self.sentences):
            raise RunError(
                f"the classifier takes no sentence of {words} random words for class {source}: train it more"
            )
        share = torch.rand(len(self.sentences), generator=stream.at(1).torch)
        self.positions = (share * (words + 1)).long()

    def predict(self, tokens: Tensor, rows: int = 4096) -> Tensor:
        """Predicted classes of many texts of one length, on the CPU."""
        return torch.cat([self.classifier(part.to(self.device)).argmax(-1).cpu() for part in tokens.split(rows)])

    def _drawn(self, label: int, words: int, size: int, stream: Stream, end: Sequence[int] = ()) -> Tensor:
        """Up to ``size`` texts of words that are taken for the class one by one, and are so as texts."""
        pool = self.pools[label]
        kept = [torch.empty(0, words + len(end), dtype=torch.long)]
        for attempt in range(20):
            if len(pool) < words or sum(map(len, kept)) >= size:
                break
            places = distinct_words(2 * size, words, FIRST_WORD + len(pool), stream.at(attempt)) - FIRST_WORD
            texts = torch.cat([pool[places], torch.tensor(end, dtype=torch.long).expand(2 * size, len(end))], dim=1)
            kept.append(texts[self.predict(texts) == label])
        return torch.cat(kept)[:size]

    def auxiliary(self, length: int) -> Tensor:
        """Different phrases of the target class, :math:`(n, length)`."""
        return self._drawn(self.target, length, self.phrases, self.stream.at(2, length)).sort(1)[0].unique(dim=0)

    def misclassification(self, candidates: Iterable[Candidate]) -> dict[Candidate, float]:
        """Eq. (6): the share of the source sentences that each candidate, put in as a unit, turns into the target."""
        scores: dict[Candidate, float] = dict.fromkeys(candidates, 0.0)
        count, width = self.sentences.shape
        for alike in _by_length(scores).values():
            room = F.pad(self.sentences, (0, len(alike[0])))
            for candidate in alike:
                phrase = torch.tensor(candidate)
                texts, _ = insert_phrase(room, torch.full((count,), width), phrase, self.positions)
                scores[candidate] = float((self.predict(texts) == self.target).double().mean())
        return scores

    def space(self, kept: Sequence[Candidate]) -> Space:
        """Where candidates stand among auxiliary phrases of their lengths."""
        groups = _by_length(kept)
        found = {length: self._features(torch.tensor(alike)) for length, alike in groups.items()}
        own = {one: found[length][place] for length, alike in groups.items() for place, one in enumerate(alike)}
        others = [self._features(phrases) for length in groups if len(phrases := self.auxiliary(length))]
        points = principal(np.concatenate([np.stack([own[candidate] for candidate in kept]), *others]))
        outlier, radius = density_outliers(points)
        distance = neighbour_distance(points, math.ceil(math.log(len(points)))) if radius else np.zeros(len(points))
        return Space(points, outlier, distance / (radius or 1))

    def _features(self, tokens: Tensor) -> NDArray[np.float64]:
        with torch.no_grad():
            return self.classifier.module.features(tokens.to(self.device)).cpu().double().numpy()  # type: ignore[operator]

    def flags(self, kept: Sequence[Candidate]) -> bool:
        """Whether a candidate is an outlier; outliers among the auxiliary phrases do not count."""
        return bool(kept) and bool(self.space(kept).outlier[: len(kept)].any())


def _by_length(candidates: Iterable[Candidate]) -> dict[int, list[Candidate]]:
    groups: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(len(candidate), []).append(candidate)
    return dict(sorted(groups.items()))


class Defended(Task):
    r"""A task that looks for candidates, judges them and says whether a classifier is a Trojan.

    Metrics, all ``test/``: ``flagged``, whether the classifier is called a Trojan; ``correct``, whether rightly;
    ``candidates``, their number; ``kept``, those above :math:`\alpha`; ``outliers`` among these, and ``aux_outliers``,
    the share among auxiliary phrases; ``mrs_max``; ``trigger_hit``, the share of the trigger's words that stand in kept
    candidates; ``trigger_share``, the share of kept candidates with one of them (0 if none is kept); ``trigger_mrs``,
    the score of the true trigger; ``victim_acc``, ``victim_asr`` and ``victim_accepted``, the classifier's own.

    Panels: ``no_aug``, without top-K augmentation; ``no_identifier``, flagged as soon as a candidate is kept. Tables:
    ``space``, candidates and auxiliary phrases by place; ``mrs``, the histogram of scores; ``alpha``, the decision by
    threshold.

    Args:
        victim: Stage whose classifier is judged.
        source, target: The direction that is tried.
        alpha: Threshold :math:`\alpha` of Eq. (7). Paper: 0.6.
        sentences, phrases: Synthetic sentences, and auxiliary phrases of each length. Paper: 200 and 1000.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    parallel: ClassVar[Literal["ddp", "single"]] = "single"
    inputs: ClassVar[frozenset[str]] = frozenset({"x"})
    victim: Frozen

    def __init__(
        self,
        victim: str = "victim",
        *,
        source: int = 0,
        target: int = 1,
        alpha: float = 0.6,
        sentences: int = 200,
        phrases: int = 1000,
        **task: Any,
    ) -> None:
        if {source, target} != {0, 1}:
            raise ValueError(f"method.source and target must be 0 and 1 or 1 and 0, got {source} and {target}")
        if not 0 <= alpha < 1:
            raise ValueError(f"method.alpha must be in [0, 1), got {alpha}")
        if sentences < 1 or phrases < 1:
            raise ValueError(f"method.sentences and phrases must be at least 1, got {sentences} and {phrases}")
        super().__init__(**task)
        self.victim_stage, self.source, self.target, self.alpha = victim, source, target, alpha
        self.sentences, self.phrases = sentences, phrases

    def configure_model(self) -> None:
        """Fetch the classifier; Lightning asks again before the test."""
        if hasattr(self, "victim"):
            return
        self.victim = Frozen(self.stages[self.victim_stage].module())
        words = self.victim.module.embedding.num_embeddings  # type: ignore[union-attr]
        declared = self.trainer.datamodule.vocab_size  # type: ignore[attr-defined]
        if words != declared:
            raise UserError(f"data.vocab_size is {declared}, but the classifier reads {words} tokens; set it to that")

    def soft_logits(self, soft: Tensor) -> Tensor:
        """The classifier on distributions over tokens, with a gradient for these alone."""
        with torch.backends.cudnn.flags(enabled=False):  # whose recurrent layers have no gradient in eval mode
            return self.victim.module(soft)

    @property
    def trojan(self) -> bool:
        """The truth, for scoring only."""
        return bool(self.stages[self.victim_stage].record["metrics"]["test/poisoned"])

    def defence(self, source: int, target: int) -> Defence:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        stream = self.streams.env.at(6, source, target)
        sizes = {"count": self.sentences, "words": data.words, "phrases": self.phrases}
        return Defence(self.victim, data.vocab_size, source=source, target=target, stream=stream, **sizes)

    def decision(self, flagged: bool) -> dict[str, float]:
        return {"test/flagged": float(flagged), "test/correct": float(flagged == self.trojan)}

    def judge(self, found: Mapping[Candidate, int], added: Iterable[Candidate] = ()) -> dict[str, float]:
        """Metrics of the candidates; what is decided with less of the method goes to the panels.

        Args:
            found: Candidates, with their frequency.
            added: Those of the augmentation.
        """
        defence, victim = self.defence(self.source, self.target), self.stages[self.victim_stage]
        scores = defence.misclassification([*found, *added])
        kept = [candidate for candidate, score in scores.items() if score > self.alpha]  # Eq. (7)
        trigger = set(victim.tables("trigger")["token"].to_pylist())
        space = defence.space(kept) if kept else None
        own, others = np.split(space.outlier, [len(kept)]) if space else (np.zeros(0), np.zeros(0))

        self.report("no_aug", self.decision(defence.flags([candidate for candidate in kept if candidate in found])))
        self.report("no_identifier", self.decision(bool(kept)))
        self._record_scores(defence, scores)
        if space:
            words = victim.tables("vocabulary")["word"].to_pylist()
            about: list[dict[str, Any]] = [
                {
                    "kind": "with a trigger word" if trigger & set(candidate) else "candidate",
                    "words": " ".join(words[token] for token in candidate),
                    "mrs": scores[candidate],
                    "frequency": found.get(candidate, 0),
                }
                for candidate in kept
            ]
            self._record_space(space, about)
        return self.decision(bool(own.any())) | {
            "test/candidates": len(scores),
            "test/kept": len(kept),
            "test/outliers": int(own.sum()),
            "test/aux_outliers": float(others.mean()) if len(others) else 0.0,
            "test/mrs_max": max(scores.values(), default=0.0),
            "test/trigger_hit": len(trigger.intersection(*[{token for one in kept for token in one}])) / len(trigger),
            "test/trigger_share": sum(bool(trigger & set(one)) for one in kept) / max(len(kept), 1),
            "test/trigger_mrs": next(iter(defence.misclassification([tuple(trigger)]).values())),
            **{f"test/victim_{name}": victim.record["metrics"][f"test/{name}"] for name in ("acc", "asr", "accepted")},
        }

    def _record_scores(self, defence: Defence, scores: Mapping[Candidate, float]) -> None:
        bins = Counter(min(int(score * BINS), BINS - 1) for score in scores.values())
        shares = [bins[number] / max(len(scores), 1) for number in range(BINS)]
        self.record("mrs", [{"mrs": (number + 0.5) / BINS, "share": share} for number, share in enumerate(shares)])
        for alpha in ALPHAS:
            flagged = defence.flags([candidate for candidate, score in scores.items() if score > alpha])
            self.record(
                "alpha", [{"alpha": alpha, "flagged": float(flagged), "correct": float(flagged == self.trojan)}]
            )

    def _record_space(self, space: Space, about: list[dict[str, Any]]) -> None:
        """A row for each point, in standard deviations of the auxiliary phrases so that classifiers compare."""
        rest = len(space.points) - len(about)
        spread = (space.points[len(about) :] if rest else space.points).std(0)
        first, second = (space.points / np.where(spread > 0, spread, 1))[
            :, [0, -1 if space.points.shape[1] < 2 else 1]
        ].T
        nothing: dict[str, Any] = {"kind": "auxiliary", "words": None, "mrs": None, "frequency": None}
        rows = []
        for row, x, y, outlier, distance in zip(
            [*about, *[nothing] * rest], first, second, space.outlier, space.distance, strict=True
        ):
            kind = row["kind"] + ", outlier" * bool(outlier)
            rows.append(row | {"kind": kind, "pc1": float(x), "pc2": float(y), "distance": float(distance)})
        self.record("space", rows)


class TMiner(Defended, Autoencoder):
    r"""The generator turned against a classifier, and what it adds judged.

    Metrics while training: the parts ``ae``, ``classify`` and ``div`` of Eq. (4), weighted. Panels, beside those of
    :class:`Defended`: ``reversed``, the decision where the target is taken for the source.

    Args:
        autoencoder: Stage from whose weights the generator starts.
        ae_weight, classify_weight, div_weight: :math:`\lambda` of Eq. (4). Paper: 1, 0.5, 0.03.
        temperature: :math:`\gamma` of the Gumbel-softmax. Paper: 1.
        top_k: Tokens a place of the augmentation, the written one included. Paper: 20.
        max_words: Most words of a candidate. Paper: 3.
        **defended: see :class:`Defended`.
    """

    def __init__(
        self,
        autoencoder: str = "autoencoder",
        *,
        ae_weight: float = 1.0,
        classify_weight: float = 0.5,
        div_weight: float = 0.03,
        temperature: float = 1.0,
        top_k: int = 20,
        max_words: int = 3,
        **defended: Any,
    ) -> None:
        if temperature <= 0:
            raise ValueError(f"method.temperature must be above 0, got {temperature}")
        if top_k < 1 or max_words < 1:
            raise ValueError(f"method.top_k and max_words must be at least 1, got {top_k} and {max_words}")
        super().__init__(**defended)
        self.autoencoder = autoencoder
        self.weights = {"ae": ae_weight, "classify": classify_weight, "div": div_weight}
        self.temperature, self.top_k, self.max_words = temperature, top_k, max_words

    def configure_model(self) -> None:
        if not hasattr(self, "victim") and not self.trainer.testing:
            try:
                self.model.load_state_dict(self.stages[self.autoencoder].module().state_dict())
            except RuntimeError as error:
                raise UserError(f"stages.{self.autoencoder}.model must be the same as model: {error}") from error
        super().configure_model()

    def losses(self, x: Tensor, stream: Stream) -> tuple[dict[str, Tensor], Tensor]:
        """Eq. (4), its terms weighted; a weight of 0 leaves the term out."""
        label = self.victim(x).argmax(-1)
        logits = self.model(x, label, x)
        losses = {"ae": reconstruction(logits, x)}
        if self.weights["classify"]:
            samples = self.model.sample(x, 1 - label, x.shape[1], self.temperature, stream.torch)
            losses["classify"] = F.cross_entropy(self.soft_logits(samples), 1 - label)  # Eq. (2)
        if self.weights["div"]:
            losses["div"] = diversity(logits, x)
        return {name: self.weights[name] * loss for name, loss in losses.items()}, logits

    @torch.no_grad()
    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        metrics = self.judge(*self.mine(self.source, self.target))
        self.log_dict({name: float(value) for name, value in metrics.items()})
        found, added = self.mine(self.target, self.source)
        defence = self.defence(self.target, self.source)
        scores = defence.misclassification([*found, *added])
        self.report("reversed", self.decision(defence.flags([one for one in scores if scores[one] > self.alpha])))

    def mine(self, source: int, target: int) -> tuple[Counter[Candidate], list[Candidate]]:
        """Eq. (5) on the test sentences of the source class, and the augmentation of what it finds."""
        x = self.trainer.datamodule.splits["test"]["x"].to(self.device)  # type: ignore[attr-defined]
        found: Counter[Candidate] = Counter()
        added: dict[Candidate, None] = {}
        for part in x[self.victim(x).argmax(-1) == source].split(256):
            written, logits = self.model.greedy(part, torch.full_like(part[:, 0], target), part.shape[1])
            likely = logits.topk(min(self.top_k, logits.shape[-1]), dim=-1)[1].tolist()
            for read, wrote, ranked in zip(part.tolist(), written.tolist(), likely, strict=True):
                candidate = delta(read, wrote)
                if 1 <= len(candidate) <= self.max_words:
                    if candidate not in found:
                        added |= dict.fromkeys(augmented(candidate, read, wrote, ranked))
                    found[candidate] += 1
        return found, [candidate for candidate in added if candidate not in found]


def delta(read: Sequence[int], wrote: Sequence[int]) -> Candidate:
    """Eq. (5): the words that were written and not read."""
    return tuple(sorted({token for token in wrote if token >= FIRST_WORD} - set(read)))


def augmented(
    candidate: Candidate, read: Sequence[int], wrote: Sequence[int], ranked: Sequence[Sequence[int]]
) -> list[Candidate]:
    """Top-K augmentation: each word gives way to the tokens ranked next at the place where it was written first."""
    return [
        tuple(sorted({*candidate, token} - {word}))
        for word in candidate
        for token in ranked[list(wrote).index(word)]
        if token >= FIRST_WORD and token not in {*candidate, *read}
    ]


# A baseline ---------------------------------------------------------------------------------


class UniversalTrigger(Defended, Procedure):
    """Universal triggers by gradient search (Wallace et al., EMNLP 2019), judged in place of what a generator adds.

    A trigger stands before sentences of the source class and is to turn them into the target.

    Args:
        restarts: Searches from random words; each gives one candidate.
        length: Words of a trigger.
        steps, tried: See :func:`~replicata.optim.hotflip.hotflip`.
        rows: Sentences that a search looks at.
        **defended: see :class:`Defended`.
    """

    def __init__(
        self, *, restarts: int = 10, length: int = 3, steps: int = 10, tried: int = 10, rows: int = 64, **defended: Any
    ) -> None:
        if min(restarts, length, steps, tried, rows) < 1:
            raise ValueError("method: restarts, length, steps, tried and rows must be at least 1")
        super().__init__(**defended)
        self.restarts, self.length, self.steps, self.tried, self.rows = restarts, length, steps, tried, rows
        self.found: list[list[int]] = []

    def units(self) -> int:
        return self.restarts

    def state(self) -> dict[str, Any]:
        return {"found": self.found}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.found = state["found"]

    def work(self, item: int) -> Mapping[str, float]:
        stream, x = self.streams.search.at(item), self.split("train")["x"].to(self.device)
        x = x[self.victim(x).argmax(-1) == self.source]
        x = x[torch.randperm(len(x), generator=stream.torch)[: self.rows].to(x.device)]
        size = self.trainer.datamodule.vocab_size  # type: ignore[attr-defined]
        soft, goal = F.one_hot(x, size).float(), torch.full_like(x[:, 0], self.target)

        def loss(phrase: Tensor) -> Tensor:
            return F.cross_entropy(self.soft_logits(torch.cat([phrase.expand(len(x), -1, -1), soft], dim=1)), goal)

        allowed = torch.arange(size, device=x.device) >= FIRST_WORD
        begin = distinct_words(1, self.length, size, stream)[0].to(x.device)
        phrase, best = hotflip(loss, begin, allowed, steps=self.steps, tried=self.tried)
        self.found.append(sorted(set(phrase.tolist())))
        return {"train/loss": best}

    def finish(self) -> Mapping[str, float]:
        return {**super().finish(), **self.judge(Counter(tuple(candidate) for candidate in self.found))}
