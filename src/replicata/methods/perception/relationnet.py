r"""RelationNet++: Bridging Visual Representations for Object Detection via Transformer Decoder.

Chi, Wei, Hu, NeurIPS 2020. https://arxiv.org/abs/2010.15831
Official code: https://github.com/microsoft/RelationNet2

A one-stage detector describes things by one kind of part: anchor boxes, or centre points. BVR (bridging visual
representations) adds a small dense head that predicts other kinds, corners and centres, takes the best of them as
*keys*, and lets every cell of the detector, the *queries*, attend to them in one decoder layer. Centres strengthen
the features for the classes, corners those for the boxes. BVR stands between the towers and the last convolutions of
a host, whose losses, assignment and suppression stay as they are.

:math:`f_q` are tower features of the cells of all levels, :math:`p_q` their centres; a point head on the pyramid gives
for each type :math:`t` of point, class and cell a heat :math:`h` and an offset :math:`o`, on a level of stride
:math:`s`.

.. math::
    S_l &= \mathrm{top}_{20}\ \mathrm{peaks}_{3 \times 3}(\sigma(h_l)), \quad
        S = \mathrm{top}_K \bigcup_l S_l \qquad \text{one set for all levels}                       \quad (1)\\
    p_k &= c_k + s_k o_k, \quad f_k = \text{the tower's feature in cell } k \text{ of its own level}  \quad (2)\\
    A_m(q, k) &= \mathrm{softmax}_k \big( (W^Q_m f_q)^\top (W^K_m f_k) / \sqrt{d_h}
        + G_m(p_k - p_q) \big)                                                                      \quad (3)\\
    f'_q &= \mathrm{ReLU}\Big(f_q + \sum_t W^O_t\, \mathrm{concat}_m
        \sum_{k \in S_t} A_m(q, k)\, W^V_m f_k\Big)                                                  \quad (4)\\
    G_m(r) &= \log \max\big(w_m^\top \phi(r / u) + b_m,\ 10^{-6}\big), \quad
        \phi_j(x, y) = \sin, \cos\ x\,\theta_j,\ y\,\theta_j, \quad \theta_j = 1000^{-4 j / D}       \quad (5)\\
    L &= L_{host} + \tfrac{1}{P} \Big(\tfrac14 \sum \mathrm{focal}(h, \hat h)
        + \sum_{P} \mathrm{smooth}_{L1}(o, \hat o)\Big)                                              \quad (6)

In (5), :math:`u` is the first stride, for all levels. *Shared* location embedding evaluates :math:`w_m^\top \phi + b_m`
once for each forward pass, on the whole numbers from :math:`-E` to :math:`E`, and reads :math:`r / u` between them
bilinearly, before the logarithm; *exact* evaluates it for every pair. In (6), every object is a target on every level:
:math:`\hat h = \exp(-d^2 / 2 \sigma^2)`, :math:`d` from the centre of the cell that is nearest to its point,
:math:`\sigma = (2 r + 1) / 6` with CornerNet's radius :math:`r`, and :math:`P` counts these cells, over all types.

Sources: the official code for everything above, and for the defaults. Departures from it: the table is read with
aligned corners, so that it is exact at whole numbers (the code is off by 1/401 of the distance). Queries of all levels
are handled at once, which is the same since their keys and :math:`u` are. With several processes :math:`P`, and what
the host's losses are divided by, is that of the whole batch. In its details the host is torchvision's, not
MMDetection's: which box an anchor gets that is some box's best, 1,000 candidates a level counted as place and class,
no learned scale of a level in FCOS. ATSS, Faster R-CNN, deformable backbones and test-time augmentation are left out.
Reconstructed: the detector with wider towers. That an equal number of parameters is the measure is ours; one more
convolution of the usual width would have a seventh of BVR's. Our study is small in every respect, see its config.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from replicata.data.loaders import Batch
from replicata.metrics.timing import interleaved, median_seconds
from replicata.models.detection.backbones import conv_norm
from replicata.models.detection.detector import Dense, by_place, prior_bias, sizes_of, small_normal
from replicata.nn.anchors import cell_centres, cell_strides
from replicata.nn.heatmaps import corner_radius, gaussian_targets, peaks
from replicata.nn.losses.heatmap import gaussian_focal
from replicata.tasks.detection import Detection
from replicata.tasks.procedure import Procedure

TYPES = ("top_left", "bottom_right", "centre")
CLS_KEYS, REG_KEYS = ("centre",), ("top_left", "bottom_right")
FLOOR = 1e-6  # Eq. (5)
LOOKS, ZOOM = 4, 4  # images that are drawn, and how many times larger
COLOURS = {"top_left": (86, 180, 233), "bottom_right": (0, 158, 115), "centre": (230, 159, 0)}

Geometry = Literal["shared", "exact", "none"]


class Points(NamedTuple):
    """What the point head says of one type of point, by level."""

    heat: list[Tensor]  # logits (B, K, H, W)
    offset: list[Tensor]  # (B, 2, H, W), in strides


class Output(NamedTuple):
    """The host's predictions, and the point head's by type."""

    dense: Dense
    points: dict[str, Points]


class Keys(NamedTuple):
    """The chosen points of one type, the best first."""

    score: Tensor  # (B, k)
    position: Tensor  # (B, k, 2) pixels
    cell: Tensor  # (B, k) among the cells of all levels


# The point head and its targets ----------------------------------------------------------------


class PointHead(nn.Module):
    """For each type of point two convolutions, then one each and a last one for heat and offset.

    Shapes:
        - input: levels :math:`(B, c, H, W)`.
    """

    def __init__(self, channels: int, num_classes: int, groups: int) -> None:
        super().__init__()

        def convs(count: int) -> list[nn.Module]:
            return [layer for _ in range(count) for layer in conv_norm(channels, channels, groups)]

        self.stem, self.heat, self.offset = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for name in TYPES:
            last = nn.Conv2d(channels, num_classes, 3, padding=1)
            self.stem[name] = nn.Sequential(*convs(2))
            self.heat[name] = nn.Sequential(*convs(1), last)
            self.offset[name] = nn.Sequential(*convs(1), nn.Conv2d(channels, 2, 3, padding=1))
        small_normal(self)
        for name in TYPES:
            nn.init.constant_(self.heat[name][-1].bias, prior_bias())  # type: ignore[index]

    def forward(self, levels: Sequence[Tensor]) -> dict[str, Points]:
        points = {}
        for name in TYPES:
            stems = [self.stem[name](level) for level in levels]
            heat, offset = self.heat[name], self.offset[name]
            points[name] = Points([heat(stem) for stem in stems], [offset(stem) for stem in stems])
        return points


def true_points(boxes: Tensor) -> dict[str, Tensor]:
    """The corners and the centre of boxes :math:`(B, M, 4)`: :math:`(B, M, 2)` by type."""
    top_left, bottom_right = boxes[..., :2], boxes[..., 2:]
    return {"top_left": top_left, "bottom_right": bottom_right, "centre": (top_left + bottom_right) / 2}


def point_losses(
    points: Mapping[str, Points], boxes: Tensor, labels: Tensor, strides: Sequence[int]
) -> tuple[dict[str, Tensor], Tensor]:
    """Eq. (6) without the host's part: losses by name, summed over the batch, and :math:`P`."""
    sides = boxes[..., 2:] - boxes[..., :2]
    sigma = (2 * corner_radius(sides[..., 0], sides[..., 1]) + 1) / 6
    sums = {"heat": boxes.new_zeros(()), "offset": boxes.new_zeros(())}
    positives = boxes.new_zeros(())
    for name, true in true_points(boxes).items():
        for heat, offset, stride in zip(*points[name], strides, strict=True):
            size = (heat.shape[2], heat.shape[3])
            target, shift, cells = gaussian_targets(true, sigma, labels, heat.shape[1], size=size, stride=stride)
            sums["heat"] = sums["heat"] + 0.25 * gaussian_focal(heat, target).sum()
            distance = F.smooth_l1_loss(offset, shift, reduction="none") * cells.unsqueeze(1)
            sums["offset"] = sums["offset"] + distance.sum()
            positives = positives + cells.sum()
    return sums, positives


# Keys ------------------------------------------------------------------------------------------


def choose_keys(points: Points, strides: Sequence[int], per_level: int, keys: int) -> Keys:
    """Eqs. (1) and (2): the best ``keys`` of the best ``per_level`` peaks of every level."""
    sizes = sizes_of(points.heat)
    start, scores, cells = 0, [], []
    for heat, (height, width) in zip(points.heat, sizes, strict=True):
        score, cell = peaks(heat.sigmoid(), per_level)
        scores.append(score)
        cells.append(cell + start)
        start += height * width
    candidates = torch.cat(scores, 1)
    score, order = candidates.topk(min(keys, candidates.shape[1]))
    cell = torch.cat(cells, 1).gather(1, order)
    device = cell.device
    offset = pick(by_place(points.offset, 2), cell)
    centre = cell_centres(sizes, strides, device)[cell]
    position = centre + offset * cell_strides(sizes, strides, device)[cell].unsqueeze(2)
    return Keys(score, position, cell)


def pick(features: Tensor, cell: Tensor) -> Tensor:
    """Features :math:`(B, N, C)` of cells :math:`(B, k)`."""
    return features.gather(1, cell.unsqueeze(2).expand(-1, -1, features.shape[2]))


# The decoder layer -----------------------------------------------------------------------------


class LocationEmbedding(nn.Module):
    r"""Eq. (5), a number for each head.

    Args:
        dim: :math:`D`; a quarter of it is the number of frequencies.
        heads: How many.
        extent: :math:`E` of the shared table; ``None``: every pair by itself.

    Shapes:
        - input: :math:`r / u`, :math:`(B, N, k, 2)`; output: :math:`(B, m, N, k)`.
    """

    table: Tensor

    def __init__(self, dim: int, heads: int, extent: int | None) -> None:
        super().__init__()
        self.dim, self.extent = dim, extent
        self.project = nn.Linear(dim, heads)
        nn.init.normal_(self.project.weight, std=0.01)
        nn.init.zeros_(self.project.bias)
        if extent is not None:
            whole = torch.arange(-extent, extent + 1.0)
            y, x = torch.meshgrid(whole, whole, indexing="ij")
            self.register_buffer("table", self.waves(torch.stack([x, y], -1)), persistent=False)

    def waves(self, relative: Tensor) -> Tensor:
        r""":math:`\phi`, :math:`(\dots, D)`: sines and cosines of x, then of y."""
        frequency = 1000.0 ** (-4 / self.dim * torch.arange(self.dim // 4, device=relative.device))
        phase = relative.unsqueeze(-1) * frequency
        return torch.cat([phase.sin(), phase.cos()], -1).flatten(-2)

    def forward(self, relative: Tensor) -> Tensor:
        if self.extent is None:
            linear = self.project(self.waves(relative)).permute(0, 3, 1, 2)
        else:
            table = self.project(self.table).permute(2, 0, 1).unsqueeze(0)
            place = relative.flatten(0, 1).unsqueeze(0) / self.extent
            read = F.grid_sample(table, place, padding_mode="border", align_corners=True)
            linear = read[0].unflatten(1, relative.shape[:2]).transpose(0, 1)
        return linear.clamp(min=FLOOR).log()


class Bridge(nn.Module):
    """Eqs. (3) and (4): queries attend to the keys of some types of points; of each type by an attention of its own.

    Args:
        channels: Of the features.
        heads: Of every attention.
        types: Types of points.
        geometry: How the location is embedded; one embedding for all types. ``none``: by appearance alone.
        extent: Of the shared table.
        unit: :math:`u` in pixels.

    Shapes:
        - ``features``: :math:`(B, N, C)`; ``places``: :math:`(N, 2)` pixels; output: :math:`(B, N, C)`.
    """

    def __init__(
        self, channels: int, heads: int, types: Sequence[str], *, geometry: Geometry, extent: int, unit: float
    ) -> None:
        super().__init__()
        self.unit = unit
        self.attention = nn.ModuleDict(
            {name: nn.MultiheadAttention(channels, heads, batch_first=True) for name in types}
        )
        self.location: LocationEmbedding | None = None
        if geometry != "none":
            self.location = LocationEmbedding(channels, heads, extent if geometry == "shared" else None)

    def forward(self, features: Tensor, places: Tensor, keys: Mapping[str, Keys]) -> Tensor:
        found = features
        for name in self.attention:
            found = found + self.attend(name, features, places, keys[name])[0]
        return found.relu()

    def attend(
        self, name: str, features: Tensor, places: Tensor, keys: Keys, weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """What the queries take from one type of points, and if asked for, by which weights :math:`(B, N, k)`."""
        chosen = pick(features, keys.cell)
        bias = None
        if self.location is not None:
            relative = (keys.position.unsqueeze(1) - places.unsqueeze(1)) / self.unit
            bias = self.location(relative).flatten(0, 1)
        result: tuple[Tensor, Tensor | None]
        result = self.attention[name](features, chosen, chosen, attn_mask=bias, need_weights=weights)
        return result


# The method ------------------------------------------------------------------------------------


class RelationNet(Detection):
    """A detector with BVR.

    Metrics beside those of detection: ``train/heat`` and ``train/offset``, the point head's losses. Tables: ``keys``,
    how many keys there are and the test's ``ap``; with attention ``attention``, images of one query each.

    Args:
        keys: :math:`K` of Eq. (1). Code: 50.
        per_level: Peaks of every level before. Code: 20.
        heads: Of every attention. Code: 8.
        geometry: ``shared``, ``exact`` or ``none``, see :class:`Bridge`.
        extent: :math:`E`, at least the largest distance in units. Code: 200.
        groups: Of the point head's normalisation.
        attend: Without, the point head is trained and nothing attends to its points.
        **detection: see :class:`~replicata.tasks.detection.Detection`.

    Raises:
        ValueError: if there are no keys, or channels and heads do not fit.
    """

    def __init__(
        self,
        keys: int = 50,
        per_level: int = 20,
        heads: int = 8,
        *,
        geometry: Geometry = "shared",
        extent: int = 200,
        groups: int = 32,
        attend: bool = True,
        **detection: Any,
    ) -> None:
        if min(keys, per_level, heads, extent) < 1:
            raise ValueError(
                "method: keys, per_level, heads and extent must be at least 1,"
                f" got {keys}, {per_level}, {heads} and {extent}"
            )
        if geometry not in ("shared", "exact", "none"):
            raise ValueError(f"method.geometry must be shared, exact or none, got {geometry!r}")
        super().__init__(**detection)
        channels, unit = self.model.channels, float(self.model.strides[0])
        if channels % heads or channels % 4:
            raise ValueError(f"method.heads={heads}: the towers' {channels} channels must be a multiple of it and of 4")
        self.keys, self.per_level, self.attend = keys, per_level, attend
        self.points = PointHead(self.model.levels.channels, self.model.num_classes, groups)  # type: ignore[arg-type]
        if attend:
            self.cls_bridge, self.reg_bridge = (
                Bridge(channels, heads, types, geometry=geometry, extent=extent, unit=unit)
                for types in (CLS_KEYS, REG_KEYS)
            )
        self.points.to(memory_format=torch.channels_last)

    # Forward -------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Output:
        cls, reg, points = self.features(x)
        if self.attend:
            keys = self.choose(points)
            cls, reg = self.bridge(self.cls_bridge, cls, keys), self.bridge(self.reg_bridge, reg, keys)
        return Output(self.model.predict(cls, reg), points)

    def features(self, x: Tensor) -> tuple[list[Tensor], list[Tensor], dict[str, Points]]:
        """Both towers' features of every level, and the points."""
        levels = self.model.pyramid(x)
        return *self.model.towers(levels), self.points(levels)

    def choose(self, points: Mapping[str, Points]) -> dict[str, Keys]:
        """Keys of every type."""
        return {name: choose_keys(own, self.model.strides, self.per_level, self.keys) for name, own in points.items()}

    def bridge(self, bridge: Bridge, levels: Sequence[Tensor], keys: Mapping[str, Keys]) -> list[Tensor]:
        """Levels :math:`(B, C, H, W)` with what their cells take from the keys."""
        sizes = sizes_of(levels)
        places = cell_centres(sizes, self.model.strides, levels[0].device)
        found = bridge(by_place(levels, levels[0].shape[1]), places, keys)
        parts = found.split([height * width for height, width in sizes], 1)
        return [part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)]

    def dense(self, output: Output) -> Dense:
        return output.dense

    def objective(self, batch: Batch, output: Output) -> Mapping[str, Tensor]:
        """Eq. (6)."""
        sums, positives = point_losses(output.points, batch["boxes"], batch["labels"], self.model.strides)
        return {**super().objective(batch, output), **self.per_positive(batch, sums, positives)}

    # What is measured ----------------------------------------------------------------------

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        super().test_step(batch, batch_idx)
        if batch_idx == 0 and self.attend and len(batch["x"]):
            rows: list[Any] = [{"image": png} for png in self.looks(batch["x"][:LOOKS])]
            self.record("attention", rows)

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        ap = self.tables["precision"][0]["value"]
        count = self.keys if self.attend else 0
        self.record("keys", [{"decoder": "BVR", "keys": count, "ap": ap}])

    def looks(self, x: Tensor) -> list[bytes]:
        """For each image a PNG: the box of the surest place, and the keys to which its cell attends."""
        cls, reg, points = self.features(x)
        keys, dense = self.choose(points), self(x).dense
        place = self.model.scores(dense).amax(2).argmax(1)
        rows = torch.arange(len(x), device=x.device)
        box, cell = self.model.boxes(dense)[rows, place], place // self.model.per_cell
        centres = cell_centres(dense.sizes, self.model.strides, x.device)
        weights = {}
        for bridge, levels in ((self.cls_bridge, cls), (self.reg_bridge, reg)):
            features = by_place(levels, self.model.channels)
            for name in bridge.attention:
                attended = bridge.attend(name, features, centres, keys[name], weights=True)[1]
                assert attended is not None
                weights[name] = attended[rows, cell]
        return [
            draw(
                image,
                box[row].tolist(),
                centres[cell[row]].tolist(),
                {name: (keys[name].position[row], own[row]) for name, own in weights.items()},
            )
            for row, image in enumerate(x)
        ]


def draw(
    image: Tensor, box: Sequence[float], query: Sequence[float], keys: Mapping[str, tuple[Tensor, Tensor]]
) -> bytes:
    """A PNG of an image :math:`(C, H, W)`: a box and a cross for the query, discs for keys, their area by weight."""
    from PIL import Image, ImageDraw

    low, high = float(image.min()), float(image.max())
    shades = ((image - low) / max(high - low, 1e-6) * 255).byte().cpu().permute(1, 2, 0)
    pixels = shades.expand(-1, -1, 3).contiguous().numpy()
    height, width = pixels.shape[:2]
    canvas = Image.fromarray(pixels).resize((ZOOM * width, ZOOM * height), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = (ZOOM * side for side in box)
    pen.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=(255, 255, 255))
    for name, (positions, weights) in keys.items():
        for (x, y), weight in zip((ZOOM * positions).tolist(), weights.tolist(), strict=True):
            radius = 24 * weight**0.5
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=COLOURS[name], width=2)
    x, y = (ZOOM * side for side in query)
    pen.line((x - 6, y, x + 6, y), fill=(255, 255, 255), width=2)
    pen.line((x, y - 6, x, y + 6), fill=(255, 255, 255), width=2)
    written = io.BytesIO()
    canvas.save(written, "PNG")
    return written.getvalue()


class GeometryTime(Procedure):
    """Times the two forms of Eq. (5) by turns, forward, for random places; the machine is this run's alone.

    The weights are those of the start: the time does not depend on them.

    Reported as the panels ``retinanet_bvr_timed`` and ``retinanet_bvr_exact_timed`` with ``cost/geom_ms``: the median
    over blocks at the last of ``keys``. Tables: ``times`` (raw samples), ``geometry`` (medians by number of keys).

    Args:
        queries: Cells that attend.
        keys: Numbers of keys that they attend to.
        dim, heads, extent: See :class:`LocationEmbedding`.
        blocks: Samples of each.
        **task: see :class:`~replicata.tasks.procedure.Procedure`.
    """

    exclusive: ClassVar[bool] = True

    def __init__(
        self,
        queries: int = 2000,
        keys: Sequence[int] = (10, 30, 50),
        dim: int = 64,
        *,
        heads: int = 4,
        extent: int = 32,
        blocks: int = 30,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        self.queries, self.keys, self.extent, self.blocks = queries, list(keys), extent, blocks
        self.shared, self.exact = LocationEmbedding(dim, heads, extent), LocationEmbedding(dim, heads, None)
        self.exact.load_state_dict(self.shared.state_dict())

    def units(self) -> int:
        return len(self.keys)

    @torch.inference_mode()
    def work(self, item: int) -> dict[str, float]:
        count = self.keys[item]
        rng = self.streams.noise.at(item).torch
        places = (2 * torch.rand(1, self.queries, count, 2, generator=rng) - 1) * self.extent
        forms = {"shared": self.shared, "exact": self.exact}
        samples = interleaved(forms, [(places.to(self.device),)] * self.blocks, repeats=1, warm_up=2)
        self.record("times", [{"keys": count, **sample} for sample in samples])
        medians = {form: 1000 * seconds for form, seconds in median_seconds(samples).items()}
        self.record("geometry", [{"keys": count, "form": form, "ms": ms} for form, ms in medians.items()])
        return {f"cost/{form}_ms": ms for form, ms in medians.items()}

    def finish(self) -> dict[str, float]:
        last = self.results[-1]
        self.report("retinanet_bvr_timed", {"cost/geom_ms": last["cost/shared_ms"]})
        self.report("retinanet_bvr_exact_timed", {"cost/geom_ms": last["cost/exact_ms"]})
        return last
