"""FashionScenes: small coloured scenes of two things with captions, drawn from (seed, split).

The things are images of Fashion-MNIST (or, without files, scikit-learn's digits), tinted; the captions come from the
grammar of :mod:`replicata.data.text.scene_captions`. Ours; real pixels, but a made-up world.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from replicata.data.loaders import Batch
from replicata.data.module import Split, TensorDataModule, take
from replicata.data.text.scene_captions import TEMPLATES, WHOLE, SceneCaptions
from replicata.data.vision.images import Digits, FashionMNIST, Images
from replicata.errors import UserError
from replicata.streams import Stream

COLOURS = {
    "red": (1.0, 0.15, 0.15),
    "green": (0.15, 1.0, 0.15),
    "blue": (0.2, 0.35, 1.0),
    "yellow": (1.0, 1.0, 0.15),
    "purple": (0.8, 0.2, 0.9),
    "white": (1.0, 1.0, 1.0),
}
# Nouns and their labels. Pullovers and shirts are left out: they look like coats and t-shirts. As many digits are used.
GARMENTS = {"t-shirt": 0, "trouser": 1, "dress": 3, "coat": 4, "sandal": 5, "sneaker": 7, "bag": 8, "boot": 9}
NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7}
# By source: the set, its nouns, and for each split the split of the set and the rows its sprites come from.
SOURCES: dict[str, tuple[type[Images], dict[str, int], dict[str, tuple[str, int, int | None]], dict[str, Any]]] = {
    "fashion_mnist": (
        FashionMNIST,
        GARMENTS,
        {"train": ("train", 0, None), "val": ("test", 0, 5000), "test": ("test", 5000, None)},
        {"in_shape": [1, 28, 28], "in_features": 784, "num_classes": 10},
    ),
    "digits": (
        Digits,
        NUMBERS,
        {"train": ("train", 0, 1300), "val": ("train", 1300, 1548), "test": ("train", 1548, None)},
        {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10},
    ),
}
SIDE, SPRITE = 32, 16  # of the canvas and of a thing, in pixels
MARGIN = 8  # around the canvas while things are put on it; what lies there is cut off
SHAKE = 2  # largest shift of a thing from its place, on each axis
CHUNK = 2048  # scenes that are painted at once


class FashionScenes(TensorDataModule):
    r"""Two things side by side or one above the other, and captions that say so.

    A thing is one of 48 concepts, a colour and a noun; the two of a scene differ. What a scene means is its ``key``:
    the two concepts and their places. Validation and test hold scenes of pairwise different keys, so that only one of
    them fits a caption that says all. Sprites of the three splits are different images.

    Training images have one caption, of a template drawn uniformly from five, the last of which leaves the relation
    out. The others have four, one of each template that says all.

    Shapes:
        - ``image``: :math:`(B, 3, 32, 32)`, floats in [0, 1]; ``tokens``: :math:`(B, C, L)`, padded with 0;
          ``lengths``: :math:`(B, C)`; ``key``: :math:`(B)`; ``concept``: :math:`(B, 2)`, colour times 8 plus noun;
          ``log_frequency``: :math:`(B)`, the mean logarithm of the two concepts' shares among the things of the
          training scenes.

    Args:
        source: ``fashion_mnist``, or ``digits``, which needs no files.
        skew: :math:`a` of the weights :math:`r^{-a}` by which concepts are drawn, :math:`r` being a concept's rank in
            an order that is drawn by seed; 0: all alike, 1: Zipf.
        n_train, n_val, n_test: Scenes of each split.
        n_single: Images of one thing for zero-shot classification.
        in_shape, vocab_size, num_concepts, num_keys: Declared facts.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.

    Attributes:
        captions: The grammar.
        zero_shot: After ``setup``, images of one thing anywhere on the canvas, of the test's sprites: ``image``, ``y``
            (a concept), and the ``prompts`` :math:`(48, 3)` with ``lengths`` that name the concepts.
    """

    def __init__(
        self,
        source: Literal["fashion_mnist", "digits"],
        *,
        in_shape: Sequence[int],
        vocab_size: int,
        num_concepts: int,
        num_keys: int,
        skew: float = 0.0,
        n_train: int = 6000,
        n_val: int = 500,
        n_test: int = 500,
        n_single: int = 500,
        **loader: Any,
    ) -> None:
        if source not in SOURCES:
            raise ValueError(f"data.source must be one of {', '.join(SOURCES)}, got {source!r}")
        if skew < 0:
            raise ValueError(f"data.skew must be >= 0, got {skew}")
        for name, size in (("n_train", n_train), ("n_val", n_val), ("n_test", n_test), ("n_single", n_single)):
            if size < 1:
                raise ValueError(f"data.{name} must be at least 1, got {size}")
        super().__init__(**loader)
        self.in_shape, self.vocab_size = list(in_shape), vocab_size
        self.num_concepts, self.num_keys, self.skew = num_concepts, num_keys, skew
        self.counts = {"train": n_train, "val": n_val, "test": n_test}
        self.n_single = n_single
        kind, self.nouns, self.rows, facts = SOURCES[source]
        self.source = kind(root=str(self.root), cache=str(self.cache), download=self.download, **facts)
        self.captions = SceneCaptions(list(COLOURS), list(self.nouns), [*GARMENTS, *NUMBERS])
        self.zero_shot: dict[str, Tensor] = {}

    def prepare_data(self) -> None:
        self.source.prepare_data()

    def load(self) -> dict[str, Split]:
        images = self.source.load()
        concepts = len(COLOURS) * len(self.nouns)
        rank = torch.randperm(concepts, generator=self.streams.split.at(0).torch)
        weights = (1.0 + rank.double()) ** -self.skew
        splits = {}
        for part, (name, count) in enumerate(self.counts.items(), 1):
            split, first, end = self.rows[name]
            sprites = self._sprites(take(images[split], torch.arange(len(images[split]["y"]))[first:end]))
            stream = self.streams.split.at(part)
            concept, relation = self._meanings(count, weights, name != "train", stream)
            splits[name] = self._scenes(concept, relation, sprites, name != "train", stream)
            if name == "test":
                self.zero_shot = self._singles(sprites, self.streams.split.at(part + 1))
        return splits

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        concepts = len(COLOURS) * len(self.nouns)
        counts = torch.bincount(splits["train"]["concept"].flatten(), minlength=concepts)
        logs = (counts.clamp_min(1) / counts.sum()).log()  # the rarest may be in no scene at all
        return {name: split | {"log_frequency": logs[split["concept"]].mean(1)} for name, split in splits.items()}

    def facts(self) -> dict[str, Any]:
        concepts = len(COLOURS) * len(self.nouns)
        return {
            "in_shape": list(self.splits["train"]["image"].shape[1:]),
            "vocab_size": len(self.captions),
            "num_concepts": concepts,
            "num_keys": 2 * concepts * (concepts - 1),
        }

    def transform(self, batch: Batch) -> Batch:
        return batch | {"image": batch["image"].float() / 255}

    # What is drawn -------------------------------------------------------------------------

    def _meanings(self, count: int, weights: Tensor, distinct: bool, stream: Stream) -> tuple[Tensor, Tensor]:
        """Two concepts :math:`(N, 2)` and the first one's relation to the second :math:`(N)`."""
        concept, relation = torch.empty(0, 2, dtype=torch.long), torch.empty(0, dtype=torch.long)
        possible = 2 * len(weights) * (len(weights) - 1)
        if distinct and count > possible // 2:  # rare scenes would be drawn for too long
            raise UserError(f"data.n_val and n_test must be at most {possible // 2}: there are {possible} scenes")
        while len(relation) < count:
            drawn = torch.multinomial(weights.expand(2 * count, -1), 2, generator=stream.torch)
            concept = torch.cat([concept, drawn])
            relation = torch.cat([relation, torch.randint(4, (2 * count,), generator=stream.torch)])
            if distinct:
                rows = first_of_each(keys(concept, relation, len(weights)))
                concept, relation = concept[rows], relation[rows]
        return concept[:count], relation[:count]

    def _scenes(self, concept: Tensor, relation: Tensor, sprites: Split, whole: bool, stream: Stream) -> Split:
        size = len(relation)
        colour, noun = concept // len(self.nouns), concept % len(self.nouns)
        if whole:
            template = torch.arange(WHOLE).expand(size, -1)
        else:
            template = torch.randint(len(TEMPLATES), (size, 1), generator=stream.torch)
        tokens, lengths = self.captions.render(colour, noun, relation, template)
        image = paint(self._pick(sprites, noun, stream), self._tints(colour, stream), places(relation, stream), stream)
        key = keys(concept, relation, len(COLOURS) * len(self.nouns))
        return {"image": image, "tokens": tokens, "lengths": lengths, "key": key, "concept": concept}

    def _singles(self, sprites: Split, stream: Stream) -> dict[str, Tensor]:
        """Images of one thing, all concepts alike, and the prompts that name them."""
        y = torch.randint(len(COLOURS) * len(self.nouns), (self.n_single,), generator=stream.torch)
        colour, noun = (y // len(self.nouns))[:, None], (y % len(self.nouns))[:, None]
        centre = torch.randint(SPRITE // 2, SIDE - SPRITE // 2 + 1, (self.n_single, 1, 2), generator=stream.torch)
        image = paint(self._pick(sprites, noun, stream), self._tints(colour, stream), centre, stream)
        prompts, lengths = self.captions.prompts()
        return {"image": image.float() / 255, "y": y, "prompts": prompts, "lengths": lengths}

    def _sprites(self, images: Split) -> Split:
        """The images that have a noun, ordered by it, and how many each noun has."""
        noun = torch.full((self.source.num_classes,), -1)
        noun[list(self.nouns.values())] = torch.arange(len(self.nouns))
        of = noun[images["y"]]
        counts = torch.bincount(of[of >= 0], minlength=len(self.nouns))
        if not bool(counts.all()):
            missing = list(self.nouns)[int(counts.argmin())]
            raise UserError(f"data.source: {type(self.source).__name__} has no image of a {missing} for every split")
        return {"x": images["x"][of.argsort(stable=True)[int((of < 0).sum()) :]], "counts": counts}

    def _pick(self, sprites: Split, noun: Tensor, stream: Stream) -> Tensor:
        """A sprite of each noun of :math:`(N, M)`: :math:`(N, M, 16, 16)` in [0, 1]."""
        counts = sprites["counts"]
        share = torch.rand(noun.shape, generator=stream.torch, dtype=torch.float64)
        rows = (counts.cumsum(0) - counts)[noun] + (share * counts[noun]).long()
        x = sprites["x"][rows.flatten()]
        x = x.float() / (255 if x.dtype == torch.uint8 else 1)
        if x.shape[-1] == SPRITE // 2:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        else:
            x = F.avg_pool2d(F.pad(x, [(2 * SPRITE - x.shape[-1]) // 2] * 4), 2)
        return x.reshape(*noun.shape, SPRITE, SPRITE)

    def _tints(self, colour: Tensor, stream: Stream) -> Tensor:
        """Colours of :math:`(N, M)` things, each shifted a little: :math:`(N, M, 3)`."""
        shift = torch.rand(*colour.shape, 3, generator=stream.torch) * 0.16 - 0.08
        return (torch.tensor(list(COLOURS.values()))[colour] + shift).clamp(0, 1)


def keys(concept: Tensor, relation: Tensor, concepts: int) -> Tensor:
    """What scenes mean, as numbers :math:`(N)`: the two concepts, the axis, and which of them comes first.

    "A left of B" and "B right of A" have one key.

    Args:
        concept: :math:`(N, 2)`, two different ones.
        relation: Of the first to the second, a number of ``RELATIONS``: :math:`(N)`.
        concepts: How many there are.
    """
    low, high = concept.min(1).values, concept.max(1).values
    pair = low * (2 * concepts - low - 1) // 2 + high - low - 1
    low_first = (relation % 2 == 0) == (concept[:, 0] == low)
    return 4 * pair + 2 * (relation // 2) + low_first.long()


def first_of_each(values: Tensor) -> Tensor:
    """The places :math:`(n)` where a value occurs for the first time, in order."""
    order = values.argsort(stable=True)
    new = torch.ones_like(order, dtype=torch.bool)
    new[1:] = values[order][1:] != values[order][:-1]
    return order[new].sort().values


def places(relation: Tensor, stream: Stream) -> Tensor:
    """Centres (row, column) of two things :math:`(N, 2, 2)`, each shaken by up to two pixels on both axes."""
    near, middle, far = SPRITE // 2, SIDE // 2, SIDE - SPRITE // 2
    across = torch.tensor([[[middle, near], [middle, far]], [[near, middle], [far, middle]]])[relation // 2]
    centre = torch.where((relation % 2 == 0)[:, None, None], across, across.flip(1))
    return centre + torch.randint(-SHAKE, SHAKE + 1, centre.shape, generator=stream.torch)


def paint(sprites: Tensor, tints: Tensor, centre: Tensor, stream: Stream) -> Tensor:
    """Put tinted sprites on dark grey canvases; the brighter of both is seen.

    Args:
        sprites: :math:`(N, M, 16, 16)` in [0, 1].
        tints: :math:`(N, M, 3)`.
        centre: Row and column :math:`(N, M, 2)`; what lies outside of the canvas is cut off.
        stream: Draws grey levels and noise.

    Returns:
        :math:`(N, 3, 32, 32)` bytes.
    """
    painted = []
    for part in torch.arange(len(sprites)).split(CHUNK):
        size = len(part)
        canvas = 0.15 * torch.rand(size, 1, 1, 1, generator=stream.torch)
        canvas = canvas + 0.02 * torch.randn(size, 3, SIDE, SIDE, generator=stream.torch)
        row = torch.arange(size)[:, None, None]
        for thing in range(sprites.shape[1]):
            layer = torch.zeros(size, SIDE + 2 * MARGIN, SIDE + 2 * MARGIN, 3)
            corner = centre[part, thing] - SPRITE // 2 + MARGIN
            down, along = (corner[:, axis, None] + torch.arange(SPRITE) for axis in range(2))
            layer[row, down[:, :, None], along[:, None]] = (
                sprites[part, thing][..., None] * tints[part, thing][:, None, None]
            )
            inside = layer[:, MARGIN:-MARGIN, MARGIN:-MARGIN].permute(0, 3, 1, 2)
            canvas = torch.maximum(canvas, inside)
        painted.append((canvas.clamp(0, 1) * 255).round().byte())
    return torch.cat(painted)
