"""Fidelity checks of RelationNet++: what only the right method satisfies."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import open_dict
from torch import Tensor, nn
from torch.utils.data import DataLoader

from replicata.data.vision.scenes import DetectionScenes
from replicata.methods.perception.relationnet import (
    FLOOR,
    TYPES,
    Bridge,
    GeometryTime,
    Keys,
    LocationEmbedding,
    PointHead,
    Points,
    RelationNet,
    choose_keys,
    pick,
    point_losses,
    true_points,
)
from replicata.metrics.cost import count_parameters
from replicata.models.detection.backbones import ConvBackbone
from replicata.models.detection.detector import by_place
from replicata.models.detection.fcos import FCOS
from replicata.models.detection.pyramid import Pyramid
from replicata.models.detection.retinanet import RetinaNet
from replicata.nn.anchors import cell_centres
from replicata.nn.heatmaps import corner_radius
from replicata.run import compose as composing
from replicata.run.check import check
from replicata.run.instantiate import instantiate
from replicata.streams import Streams
from replicata.study.parse import parse
from replicata.study.plan import expand
from replicata.tasks.detection import Detection

STRIDES = [8, 16, 32]


def host(kind: type[Any] = RetinaNet, wide: int = 0) -> Any:
    with Streams(0).init.as_global():
        pyramid = Pyramid(ConvBackbone([1, 64, 64], widths=[8, 8, 16, 16]), 16, 8)
        given_ = {"scales": [3.0]} if kind is RetinaNet else {}
        return kind(pyramid, 10, depth=1, groups=8, wide=wide, **given_)


def relation(kind: type[Any] = RetinaNet, **given_: Any) -> RelationNet:
    with Streams(0).init.as_global():
        settings_ = {"keys": 12, "per_level": 8, "heads": 2, "extent": 8, "groups": 8}
        method = RelationNet(model=host(kind), optimizer=partial(torch.optim.Adam, lr=1e-3), **(settings_ | given_))
    method.streams = Streams(0)
    return method


def scenes() -> DetectionScenes:
    facts = {"in_shape": [1, 64, 64], "num_classes": 10, "max_objects": 3, "size": 64, "objects": [1, 3]}
    sizes = {"n_train": 16, "n_val": 4, "n_test": 6, "batch_size": 8, "eval_batch_size": 4}
    return DetectionScenes("digits", root="", cache="", sides=[14, 32], **facts, **sizes)


def images(seed: int = 0, batch: int = 2) -> Tensor:
    return torch.rand(batch, 1, 64, 64, generator=torch.Generator().manual_seed(seed))


def some_keys(rng: torch.Generator, batch: int, cells: int, many: int) -> Keys:
    cell = torch.stack([torch.randperm(cells, generator=rng)[:many] for _ in range(batch)])
    return Keys(torch.rand(batch, many, generator=rng), 64 * torch.rand(batch, many, 2, generator=rng), cell)


def bridge(
    geometry: Any = "shared", channels: int = 16, types: tuple[str, ...] = ("top_left", "bottom_right")
) -> Bridge:
    with Streams(1).init.as_global():
        made = Bridge(channels, 2, types, geometry=geometry, extent=10, unit=8.0)
        if made.location is not None:
            nn.init.normal_(made.location.project.weight, std=0.5)
            nn.init.constant_(made.location.project.bias, 0.5)
    return made


# The decoder layer --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RetinaNet, FCOS])
def test_without_values_the_detector_is_its_host(kind: type[Any]) -> None:
    method = relation(kind)
    for part in (method.cls_bridge, method.reg_bridge):
        for attention in part.attention.values():
            nn.init.zeros_(attention.out_proj.weight)
    dense, plain = method(images()).dense, method.model(images())
    assert torch.equal(dense.logits, plain.logits)
    assert torch.equal(dense.codes, plain.codes)


def test_a_bridge_is_a_relu_of_the_sum_over_types() -> None:
    """Eqs. (3) and (4) written out, with the geometry term."""
    layer, rng = bridge().double(), torch.Generator().manual_seed(0)
    features = torch.randn(2, 9, 16, generator=rng).double()
    places = 64 * torch.rand(9, 2, generator=rng).double()
    keys = {name: some_keys(rng, 2, 9, 5) for name in layer.attention}
    expected = features.clone()
    for name, attention in layer.attention.items():
        wq, wk, wv = attention.in_proj_weight.chunk(3)
        bq, bk, bv = attention.in_proj_bias.chunk(3)
        chosen = torch.stack([features[row, keys[name].cell[row]] for row in range(2)])
        q, k, v = features @ wq.T + bq, chosen @ wk.T + bk, chosen @ wv.T + bv
        relative = (keys[name].position[:, None] - places[:, None]) / 8
        g = layer.location(relative)
        heads = []
        for m in range(2):
            part = slice(8 * m, 8 * m + 8)
            weight = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(8) + g[:, m]).softmax(2)
            heads.append(weight @ v[..., part])
        expected = expected + attention.out_proj(torch.cat(heads, 2))
    torch.testing.assert_close(layer(features, places, keys), expected.relu())


def test_without_geometry_it_is_torchs_attention() -> None:
    layer, rng = bridge("none", types=("centre",)), torch.Generator().manual_seed(0)
    theirs = nn.MultiheadAttention(16, 2, batch_first=True)
    theirs.load_state_dict(layer.attention["centre"].state_dict())
    features, keys = torch.randn(2, 9, 16, generator=rng), some_keys(rng, 2, 9, 5)
    chosen = pick(features, keys.cell)
    expected = (features + theirs(features, chosen, chosen)[0]).relu()
    torch.testing.assert_close(layer(features, torch.zeros(9, 2), {"centre": keys}), expected)
    weights = layer.attend("centre", features, torch.zeros(9, 2), keys, weights=True)[1]
    torch.testing.assert_close(weights, theirs(features, chosen, chosen)[1])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(["shared", "exact"]))
def test_only_distances_count_and_the_keys_order_does_not(seed: int, geometry: str) -> None:
    layer, rng = bridge(geometry).double(), torch.Generator().manual_seed(seed)
    features, places = torch.randn(2, 9, 16, generator=rng).double(), 64 * torch.rand(9, 2, generator=rng).double()
    keys = {name: some_keys(rng, 2, 9, 5) for name in layer.attention}
    keys = {name: own._replace(position=own.position.double()) for name, own in keys.items()}
    plain = layer(features, places, keys)
    shift = torch.tensor([13.5, -7.25], dtype=torch.float64)
    moved = {name: own._replace(position=own.position + shift) for name, own in keys.items()}
    torch.testing.assert_close(layer(features, places + shift, moved), plain)
    order = torch.randperm(5, generator=rng)
    shuffled = {name: Keys(*(column[:, order] for column in own)) for name, own in keys.items()}
    torch.testing.assert_close(layer(features, places, shuffled), plain)


def embeddings(dim: int = 16) -> tuple[LocationEmbedding, LocationEmbedding]:
    shared, exact = LocationEmbedding(dim, 3, 6).double(), LocationEmbedding(dim, 3, None).double()
    with torch.no_grad():  # double() would only widen a table in single precision
        y, x = torch.meshgrid(*2 * (torch.arange(-6, 7, dtype=torch.float64),), indexing="ij")
        shared.table.copy_(shared.waves(torch.stack([x, y], -1)))
    nn.init.normal_(shared.project.weight, std=0.5)
    nn.init.constant_(shared.project.bias, 0.2)
    exact.load_state_dict(shared.state_dict())
    return shared, exact


def test_the_table_is_exact_at_whole_numbers_and_bilinear_before_the_logarithm() -> None:
    shared, exact = embeddings()
    rng = torch.Generator().manual_seed(0)
    whole = torch.randint(-6, 7, (2, 7, 5, 2), generator=rng).double()
    torch.testing.assert_close(shared(whole), exact(whole), atol=1e-5, rtol=0)
    assert float(exact(whole).detach().min()) == pytest.approx(math.log(FLOOR))  # some are clamped
    half = torch.randint(-6, 6, (1, 4, 3, 2), generator=rng).double() + 0.5
    corners = [half + torch.tensor([dx, dy], dtype=torch.float64) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)]
    mean = sum(exact.project(exact.waves(corner)) for corner in corners) / 4
    torch.testing.assert_close(shared(half), mean.clamp(min=FLOOR).log().permute(0, 3, 1, 2))
    beyond = torch.tensor([[[[50.0, 3.0]]]], dtype=torch.float64)
    torch.testing.assert_close(shared(beyond), exact(torch.tensor([[[[6.0, 3.0]]]], dtype=torch.float64)))


def test_waves_are_those_of_the_equation() -> None:
    waves = LocationEmbedding(16, 1, None).waves(torch.tensor([2.0, -3.0]))
    expected = [
        function(value * 1000 ** (-4 * j / 16))
        for value in (2.0, -3.0)
        for function in (math.sin, math.cos)
        for j in range(4)
    ]
    assert waves.tolist() == pytest.approx(expected, abs=1e-5)


# Keys ---------------------------------------------------------------------------------------


def random_points(seed: int, batch: int = 2, side: int = 64) -> Points:
    rng = torch.Generator().manual_seed(seed)
    sizes = [math.ceil(side / stride) for stride in STRIDES]
    heat = [torch.randn(batch, 3, size, size, generator=rng) for size in sizes]
    return Points(heat, [torch.randn(batch, 2, size, size, generator=rng) for size in sizes])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000))
def test_keys_are_the_best_peaks_of_all_levels_at_their_refined_places(seed: int) -> None:
    points = random_points(seed)
    keys = choose_keys(points, STRIDES, per_level=6, keys=10)
    for row in range(2):
        found, first = [], 0
        for heat, offset, stride in zip(*points, STRIDES, strict=True):
            p = heat[row].sigmoid()
            peak = p * (F.max_pool2d(p[None], 3, 1, 1)[0] == p)
            level = [
                (float(peak[c, i, j]), first + i * p.shape[2] + j,
                 [stride * (j + 0.5 + float(offset[row, 0, i, j])), stride * (i + 0.5 + float(offset[row, 1, i, j]))])
                for c in range(3) for i in range(p.shape[1]) for j in range(p.shape[2])
            ]  # fmt: skip
            found += sorted(level, key=lambda entry: -entry[0])[: min(6, p[0].numel())]
            first += p[0].numel()
        best = sorted(found, key=lambda entry: -entry[0])[:10]
        assert keys.score[row].tolist() == pytest.approx([entry[0] for entry in best])
        for at, (score, cell, place) in enumerate(best):
            if score > 0:  # cells that are no peaks tie at 0
                assert int(keys.cell[row, at]) == cell
                assert keys.position[row, at].tolist() == pytest.approx(place, abs=1e-3)


def test_their_number_depends_on_the_image_only_where_it_lacks_cells() -> None:
    assert choose_keys(random_points(0, side=256), STRIDES, 20, 50).cell.shape == (2, 50)
    assert choose_keys(random_points(0, side=160), STRIDES, 20, 50).cell.shape == (2, 50)
    assert choose_keys(random_points(0, side=64), STRIDES, 20, 50).cell.shape == (2, 20 + 16 + 4)


def test_all_levels_share_the_keys_and_features_come_from_their_own_cell() -> None:
    """A bridge that hands on what the surest key is gives one vector to all cells of all levels: that key's feature."""
    method = relation(geometry="none", keys=1)
    cls, _, points = method.features(images())
    layer = method.cls_bridge
    attention = layer.attention["centre"]
    with torch.no_grad():
        attention.in_proj_weight[-16:] = torch.eye(16)
        attention.out_proj.weight.copy_(torch.eye(16))
    keys = method.choose(points)
    features, after = by_place(cls, 16), by_place(method.bridge(layer, cls, keys), 16)
    own = torch.stack([features[row, keys["centre"].cell[row, 0]] for row in range(2)])
    torch.testing.assert_close(after, (features + own[:, None]).relu())


def test_centres_serve_the_classes_and_corners_the_boxes() -> None:
    method = relation()
    assert list(method.cls_bridge.attention) == ["centre"]
    assert list(method.reg_bridge.attention) == ["top_left", "bottom_right"]
    assert sum(isinstance(part, LocationEmbedding) for part in method.modules()) == 2  # the corners share one
    assert sum(isinstance(part, LocationEmbedding) for part in relation(geometry="none").modules()) == 0


# The point head -----------------------------------------------------------------------------


def test_every_object_is_a_target_on_every_level() -> None:
    boxes = torch.tensor([[[20.0, 12.0, 44.0, 52.0], [0.0, 0.0, 0.0, 0.0]]])
    labels = torch.tensor([[4, -1]])
    perfect: dict[str, Points] = {}
    for name, true in true_points(boxes).items():
        sigma = (2 * corner_radius(torch.tensor(24.0), torch.tensor(40.0)) + 1) / 6
        heat, offset = [], []
        for stride in STRIDES:
            size = math.ceil(64 / stride)
            centres = cell_centres([(size, size)], [stride])
            near = int(((centres - true[0, 0]) ** 2).sum(1).argmin())
            h = torch.exp(-((centres - centres[near]) ** 2).sum(1) / (2 * sigma**2))
            logit = torch.full((1, 10, size * size), -30.0)
            logit[0, 4] = torch.where(h == 1, 30.0, -30.0)
            shift = torch.zeros(1, 2, size * size)
            shift[0, :, near] = (true[0, 0] - centres[near]) / stride
            heat.append(logit.unflatten(2, (size, size)))
            offset.append(shift.unflatten(2, (size, size)))
        perfect[name] = Points(heat, offset)
    sums, positives = point_losses(perfect, boxes, labels, STRIDES)
    assert float(positives) == 3 * len(STRIDES)
    assert float(sums["heat"]) == pytest.approx(0, abs=1e-6)
    assert float(sums["offset"]) == pytest.approx(0, abs=1e-6)
    wrong = {name: own._replace(offset=[level + 3 for level in own.offset]) for name, own in perfect.items()}
    assert float(point_losses(wrong, boxes, labels, STRIDES)[0]["offset"]) == pytest.approx(9 * 2 * 2.5, rel=1e-5)
    cold = {name: own._replace(heat=[level * 0 for level in own.heat]) for name, own in perfect.items()}
    least = 0.25 * 9 * 0.25 * math.log(2)  # of the positives alone, at p = 1/2
    assert float(point_losses(cold, boxes, labels, STRIDES)[0]["heat"]) > least


def test_the_head_has_the_codes_layers_and_starts_without_hope() -> None:
    head = PointHead(256, 80, 32)
    branch = 4 * (256 * 256 * 9 + 512) + (256 * 9 + 1) * (80 + 2)
    assert count_parameters(head) == len(TYPES) * branch
    small = PointHead(16, 10, 8)
    points = small([torch.zeros(1, 16, 4, 4)])
    for own in points.values():
        torch.testing.assert_close(own.heat[0].sigmoid(), torch.full((1, 10, 4, 4), 0.01))
        assert not own.offset[0].any()


def test_offsets_learn_through_the_attention() -> None:
    method = relation()
    output = method(images())
    (output.dense.codes.sum() + output.dense.logits.sum()).backward()
    for name in TYPES:
        assert float(method.points.offset[name][-1].weight.grad.abs().sum()) > 0


def test_losses_are_the_hosts_and_the_point_heads() -> None:
    method, data = relation(), scenes()
    data.streams = Streams(0)
    data.setup("fit")
    batch = {name: column[:4] for name, column in data.splits["train"].items()}
    batch = data.transform(batch)
    output = method(batch["x"])
    found = method.objective(batch, output)
    sums, count = method.model.losses(output.dense, batch["boxes"], batch["labels"])
    own, positives = point_losses(output.points, batch["boxes"], batch["labels"], method.model.strides)
    assert set(found) == {"cls", "box", "heat", "offset"}
    for name, value in (sums | own).items():
        torch.testing.assert_close(found[name], value / (count if name in sums else positives))


# Runs ---------------------------------------------------------------------------------------


def test_without_attention_the_host_learns_as_alone_but_for_the_pyramid(fit: Callable[..., Any]) -> None:
    """The auxiliary arm adds to the host's loss and to nothing else: its gradient by the last layers is the host's."""
    aux, alone = relation(attend=False), Detection(model=host())
    data = scenes()
    data.streams = Streams(0)
    data.setup("fit")
    batch = data.transform({name: column[:4] for name, column in data.splits["train"].items()})
    for method in (aux, alone):
        sum(method.objective(batch, method(batch["x"])).values()).backward()
    for part in ("cls", "reg", "cls_tower", "reg_tower"):
        pairs = zip(getattr(aux.model, part).parameters(), getattr(alone.model, part).parameters(), strict=True)
        assert all(torch.equal(one.grad, other.grad) for one, other in pairs)


def test_a_run_reports_precision_keys_and_pictures(fit: Callable[..., Any]) -> None:
    from PIL import Image

    method, data = relation(), scenes()
    trainer = fit(method, data)
    (logged,) = trainer.test(method, datamodule=data, verbose=False)
    assert {"test/ap", "test/ap50", "test/ap75", "test/heat", "test/offset", "cost/params"} <= set(logged)
    assert logged["cost/params"] == count_parameters(method)
    assert [row["measure"] for row in method.tables["precision"]] == ["AP", "AP50", "AP75"]
    assert method.tables["keys"] == [{"decoder": "BVR", "keys": 12, "ap": pytest.approx(logged["test/ap"])}]
    pictures = [Image.open(io.BytesIO(row["image"])) for row in method.tables["attention"]]
    assert [picture.size for picture in pictures] == [(256, 256)] * 4


def test_times_of_both_forms_are_reported(fit: Callable[..., Any]) -> None:
    method = GeometryTime(queries=20, keys=[2, 4], dim=8, heads=2, extent=4)
    fit(method, scenes())
    assert {(row["keys"], row["form"]) for row in method.tables["geometry"]} == {
        (count, form) for count in (2, 4) for form in ("shared", "exact")
    }
    assert len(method.tables["times"]) == 2 * 2 * 30
    last = {row["form"]: row["ms"] for row in method.tables["geometry"] if row["keys"] == 4}
    assert method.panel["retinanet_bvr_timed"]["cost/geom_ms"] == pytest.approx(last["shared"])
    assert method.panel["retinanet_bvr_exact_timed"]["cost/geom_ms"] == pytest.approx(last["exact"])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"keys": 0}, "keys, per_level, heads and extent"),
        ({"geometry": "some"}, "method.geometry must be shared, exact or none"),
        ({"heads": 3}, "method.heads=3"),
        ({"score": 1.5}, "score"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        relation(**wrong)


# Scales -------------------------------------------------------------------------------------


def build(experiment: str, *overrides: str) -> Any:
    config = composing.compose([f"experiment={experiment}", *overrides])
    if "backbone" in config.model.pyramid and "weights" in config.model.pyramid.backbone:
        with open_dict(config):
            config.model.pyramid.backbone.weights = None
    model, optimizer = instantiate(config.model, "model"), instantiate(config.optimizer, "optimizer")
    scheduler = instantiate(config.scheduler, "scheduler")
    return instantiate(config.method, "method", model=model, optimizer=optimizer, scheduler=scheduler)


@pytest.fixture(scope="module")
def paper() -> RelationNet:
    return build("perception/relationnet_paper")


def test_wide_towers_have_the_parameters_of_bvr(paper: RelationNet) -> None:
    for experiment, method in (("relationnet", build("perception/relationnet")), ("relationnet_paper", paper)):
        study = parse(composing.compose([f"experiment=perception/{experiment}"]).study, f"perception/{experiment}")
        wide = build(f"perception/{experiment}", *study.arms["retinanet_convs"].overrides)
        assert count_parameters(wide) == pytest.approx(count_parameters(method), rel=0.02)


def test_the_papers_scale_has_the_same_arms_and_they_are_checked() -> None:
    study = parse(composing.compose(["experiment=perception/relationnet_paper"]).study, "perception/relationnet_paper")
    laptop = parse(composing.compose(["experiment=perception/relationnet"]).study, "perception/relationnet")
    assert set(study.arms) == set(laptop.arms)
    for spec in expand(study, arms=["retinanet_convs", "fcos_bvr", "timing"], seeds=1):
        check(composing.compose(list(spec.overrides)))


def test_the_papers_recipe(paper: RelationNet) -> None:
    config = composing.compose(["experiment=perception/relationnet_paper"])
    code = {"keys": 50, "per_level": 20, "heads": 8, "extent": 200}
    assert {name: config.method[name] for name in code} == code
    assert paper.model.strides == [8, 16, 32, 64, 128]
    assert paper.model.per_cell == 9
    assert paper.cls_bridge.location is not None
    assert paper.cls_bridge.location.table.shape == (401, 401, 256)
    optimizer = instantiate(config.optimizer, "optimizer")([nn.Parameter(torch.zeros(1))])
    assert optimizer.defaults["momentum"] == 0.9
    assert optimizer.defaults["weight_decay"] == pytest.approx(1e-4)
    assert optimizer.defaults["lr"] == pytest.approx(0.01)


def test_the_papers_detector_takes_two_steps(paper: RelationNet) -> None:
    size = (128, 160)  # the paper's 800 x 1344 pixels take 6 GB and 50 s
    boxes = torch.tensor([[[10.0, 20.0, 90.0, 100.0], [40.0, 8.0, 70.0, 60.0], [0.0, 0.0, 0.0, 0.0]]])
    batch = {"x": torch.randn(1, 3, *size), "boxes": boxes, "labels": torch.tensor([[3, 79, -1]])}
    batch |= {
        "index": torch.arange(1),
        "crowd": torch.zeros(1, 3, dtype=torch.bool),
        "size": torch.tensor([list(size)]),
    }
    paper.streams = Streams(0)
    before = paper.points.stem["centre"][0].weight.detach().clone()
    frozen = paper.model.levels.backbone.stages[0][0].conv1.weight.detach().clone()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(paper, DataLoader([batch, batch], batch_size=None))
    assert trainer.global_step == 2
    assert not torch.equal(paper.points.stem["centre"][0].weight, before)
    assert torch.equal(paper.model.levels.backbone.stages[0][0].conv1.weight, frozen)
    assert not any(part.training for part in paper.model.modules() if isinstance(part, nn.BatchNorm2d))
