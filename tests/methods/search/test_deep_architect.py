"""Fidelity checks of DeepArchitect: the language, the searchers, and a search that ends the same however it went."""

from __future__ import annotations

import doctest
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from replicata.data.vision.images import Digits
from replicata.methods.search.deep_architect import DeepArchitect, crop_and_flip, language
from replicata.methods.search.deep_architect.language import (
    Affine,
    AvgPool,
    Basic,
    BatchNorm,
    ChoiceBisection,
    Concat,
    Conv2D,
    Dropout,
    Empty,
    MaxPool,
    Module,
    Or,
    ReLU,
    Repeat,
    RepeatTied,
    Residual,
    Sigmoid,
    Space,
    Tanh,
    UserHyperparams,
    maybe_swap,
    optional,
    published,
)
from replicata.methods.search.deep_architect.searchers import (
    RandomSearch,
    Searcher,
    SurrogateSearch,
    TreeSearch,
    fit_ridge,
    rollout,
)
from replicata.methods.search.deep_architect.spaces import deepconv, logarithmic
from replicata.streams import Stream

MINI: dict[str, Any] = {
    "filters": [8, 16], "reduction_sizes": [1, 3], "sizes": [[1, 3], [1, 3]], "keeps": [0.5, 0.9], "repeats": [1, 2]
}  # fmt: skip
PAPER: dict[str, Any] = {
    "filters": [48, 64, 80, 96, 112, 128], "reduction_sizes": [3, 5, 7], "sizes": [[3, 5], [3, 5]],
    "keeps": [0.5, 0.9], "repeats": [1, 2, 4, 8, 16, 32],
}  # fmt: skip
HYPERPARAMETERS = {"optimizer": ["adam", "sgd_mom"], "lr": logarithmic(0.1, 1e-3, 4), "batch_size": [20, 50]}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def count(module: Module) -> int:
    """Number of models by the product formula."""
    match module:
        case Basic():
            return math.prod(len(values) for values in module.domains.values())
        case Concat():
            return math.prod(count(part) for part in module.modules)
        case Or():
            return sum(count(part) for part in module.modules)
        case RepeatTied():
            return len(module.values) * count(module.repeated)
        case Repeat():
            return sum(count(module.repeated) ** n for n in module.values)
        case Residual() | ChoiceBisection():
            return count(module.module)
    raise AssertionError(module)


def leaves(space: Space, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Module]]:
    """All models of a space, each with its choices."""
    model = space.build(path)
    if model.is_specified():
        yield path, model
        return
    for index in range(len(model.get_choices()[1])):
        yield from leaves(space, (*path, index))


# The language -------------------------------------------------------------------------------

BASIC = st.one_of(
    st.builds(Affine, st.lists(st.integers(1, 4), min_size=1, max_size=4, unique=True)),
    st.builds(Dropout, st.just([0.5, 0.9])),
    st.sampled_from([ReLU, Tanh, Sigmoid, Empty, BatchNorm]).map(lambda kind: kind()),
)
TIMES = st.lists(st.integers(1, 3), min_size=1, max_size=2, unique=True)
PROGRAMS = st.recursive(
    BASIC,
    lambda inner: st.one_of(
        st.builds(Concat, st.lists(inner, min_size=1, max_size=3)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=3)),
        st.builds(Repeat, inner, TIMES),
        st.builds(RepeatTied, inner, TIMES),
        st.builds(Residual, inner),
        st.builds(optional, inner),
        st.builds(maybe_swap, inner, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_enumeration_gives_the_product_formula(program: Module) -> None:
    assume(count(program) <= 100)
    assert len(list(leaves(Space(program, (3,))))) == count(program)


@settings(max_examples=40, deadline=None)
@given(PROGRAMS)
def test_bisection_keeps_the_models_and_every_choice_is_binary(program: Module) -> None:
    assume(count(program) <= 100)
    plain = sorted(str(model.code()) for _, model in leaves(Space(program, (3,))))
    space = Space(ChoiceBisection(program), (3,))
    assert sorted(str(model.code()) for _, model in leaves(space)) == plain
    model = space.start()
    while not model.is_specified():
        assert len(model.get_choices()[1]) == 2
        model.choose(0)


@given(st.integers(2, 40))
def test_bisection_takes_at_most_the_logarithm_of_the_values(k: int) -> None:
    paths = [path for path, _ in leaves(Space(ChoiceBisection(Affine(range(1, k + 1))), (3,)))]
    assert len(paths) == k
    assert max(map(len, paths)) == math.ceil(math.log2(k))
    assert paths == sorted(paths)  # in the order of the values, so that neighbours share the first halves
    first = Space(ChoiceBisection(Affine(range(1, k + 1))), (3,)).start().get_choices()[1]
    assert len(first[0]) == k // 2


@settings(max_examples=50, deadline=None)
@given(PROGRAMS, st.integers(0, 2**31))
def test_flat_models_have_the_shape_that_was_promised(program: Module, seed: int) -> None:
    model = Space(program, (3,)).start()
    rollout(model, rng(seed))
    assert model.compile()(torch.randn(2, 3)).shape == (2, *model.get_outdim())


def image_program() -> Module:
    window = Or([Conv2D([2, 3], [1, 2, 3, 5], [1, 2]), MaxPool([2, 3], [1, 2]), AvgPool([2, 5], [1, 2, 3])])
    block = Concat([window, maybe_swap(ReLU(), BatchNorm()), optional(Dropout([0.5, 0.9]))])
    return Concat([Repeat(Or([block, Residual(block)]), [1, 2, 4]), optional(Residual(Affine([5, 400])))])


def test_promised_shapes_of_200_random_image_models() -> None:
    space = Space(image_program(), (3, 9, 7))
    for seed in range(200):
        model = space.start()
        rollout(model, rng(seed))
        assert model.compile()(torch.randn(2, 3, 9, 7)).shape == (2, *model.get_outdim())


def test_the_reference_space_has_2025_models() -> None:
    conv = [Conv2D([32, 48, 64, 96, 128], [1, 3, 5]), ReLU(), MaxPool([2], [2])]
    rest = [Affine([256, 512, 1024]), ReLU(), Dropout([0.25, 0.5, 0.75]), Affine([10])]
    assert count(Concat([*conv, *conv, *rest])) == 15 * 15 * 3 * 3 == 2025  # the authors' comment says 2,200


def test_size_of_the_paper_space() -> None:
    column = 6 * (6 * 2) * 2 * 3
    assert count(deepconv(10, **PAPER)) == (6 * 3 * column) ** 2


def test_tied_copies_share_choices_and_not_weights() -> None:
    model = Space(RepeatTied(Concat([Affine([3, 4]), optional(Dropout([0.5, 0.9]))]), [1, 2, 3]), (3,)).build(
        [2, 0, 1, 0]
    )
    assert model.code() == [["Affine", {"units": 3}], ["Dropout", {"keep": 0.5}]] * 3
    linears = [layer for layer in model.compile().modules() if isinstance(layer, nn.Linear)]
    assert len(linears) == 3
    assert not torch.equal(linears[0].weight, linears[1].weight)


def test_untied_copies_choose_for_themselves() -> None:
    codes = {str(model.code()) for _, model in leaves(Space(Repeat(Affine([3, 4]), [2]), (3,)))}
    assert len(codes) == 4


def test_residual_around_nothing_doubles() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(Space(Residual(Empty()), (3, 4, 4)).start().compile()(x), x + x)


def test_residual_pads_with_zeros_at_the_end() -> None:
    model = Space(Residual(Conv2D([2], [1], [2])), (3, 4, 4)).start()
    network = model.compile()
    assert isinstance(network.inner, nn.Module)
    x = torch.randn(1, 3, 4, 4)
    expected = x.clone()
    expected[:, :2, :2, :2] += network.inner(x)
    torch.testing.assert_close(network(x), expected)
    assert Space(Residual(Affine([50])), (3, 4, 4)).start().get_outdim() == (50,)


def test_single_values_are_taken_as_they_come_up() -> None:
    model = Space(Concat([Conv2D([4], [3]), Or([Affine([3])]), RepeatTied(ReLU(), [2])]), (1, 8, 8)).start()
    assert model.is_specified()
    with pytest.raises(RuntimeError, match="copy"):
        model.initialize((1, 8, 8))


def test_initial_weights() -> None:
    torch.manual_seed(0)
    conv = Space(Conv2D([64], [3]), (32, 8, 8)).start().compile()
    assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)
    affine = Space(Affine([100]), (2, 8, 8)).start().compile()[1]
    assert float(affine.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / 228), rel=0.05)
    assert not conv.bias.any()
    assert not affine.bias.any()


def test_published_hyperparameters() -> None:
    model = Space(Concat([UserHyperparams(lr=[0.1, 0.2], size=[3]), ReLU()]), (3,)).build([1])
    assert published(model) == {"lr": 0.2, "size": 3}
    assert model.compile()(torch.ones(1, 3)).sum() == 3


def test_the_program_prints_and_the_documented_example_runs() -> None:
    assert doctest.testmod(language).attempted > 5
    assert doctest.testmod(language).failed == 0
    lines = str(deepconv(10, **MINI, pool=2)).splitlines()
    assert lines[:2] == ["Concat", "    AvgPool size=[2] stride=[2]"]
    assert "    RepeatTied times=[1, 2]" in lines
    assert str(ChoiceBisection(Residual(ReLU()))) == "ChoiceBisection\n    Residual\n        ReLU"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (lambda: Affine([]), "Affine.units"),
        (lambda: Concat([]), "Concat"),
        (lambda: Or([]), "Or"),
        (lambda: Repeat(ReLU(), [0, 1]), "Repeat"),
        (lambda: Space(Conv2D([3], [3]), (5,)).start(), "Conv2D needs an input of 3 axes"),
        (lambda: deepconv(10, **(MINI | {"sizes": [[3]]})), "method.space.sizes"),
        (lambda: deepconv(10, **MINI, pool=0), "method.space.pool"),
    ],
)
def test_programs_that_cannot_be_are_refused(wrong: Callable[[], object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        wrong()


# The searchers ------------------------------------------------------------------------------

ARMS = {
    "random": RandomSearch,
    "mcts": lambda space: TreeSearch(space, 0.5),
    "smbo": lambda space: SurrogateSearch(space, "types", pool=10),
    "smbo_full": lambda space: SurrogateSearch(space, "full", pool=10),
}


def front(values: Sequence[float]) -> Module:
    return Concat([UserHyperparams(optimizer=["adam", "sgd_mom"], lr=values), deepconv(10, **MINI)])


def closeness(model: Module) -> float:
    """A score without noise: 1 at a learning rate of 0.01, less by a tenth for each factor of two away from it."""
    return max(0.0, 1 - abs(math.log2(published(model)["lr"] / 0.01)) / 10)


def walk(
    searcher: Searcher, steps: int, score: Callable[[Module], float] = closeness, seed: int = 0
) -> list[list[int]]:
    proposed = []
    for item in range(steps):
        proposed.append(searcher.propose(Stream(seed).at(item).numpy))
        searcher.observe(proposed[-1], score(searcher.space.build(proposed[-1])))
    return proposed


@pytest.mark.parametrize("arm", ARMS)
def test_same_seed_and_scores_give_the_same_sequence(arm: str) -> None:
    space = Space(front(logarithmic(1e-1, 1e-5, 16)), (1, 8, 8))
    assert walk(ARMS[arm](space), 12) == walk(ARMS[arm](space), 12)
    assert walk(ARMS[arm](space), 12) != walk(ARMS[arm](space), 12, seed=1)
    other = walk(ARMS[arm](space), 12, lambda model: 1 - closeness(model))
    assert (other == walk(ARMS[arm](space), 12)) == (arm == "random")


def test_random_search_is_uniform_at_choices_and_not_over_models() -> None:
    searcher = RandomSearch(Space(Or([Affine([1, 2, 3, 4]), ReLU()]), (3,)))
    drawn = [tuple(path) for path in walk(searcher, 600, lambda model: 0.0)]
    assert drawn.count((1,)) / 600 == pytest.approx(0.5, abs=0.07)  # one of five models
    assert sum(path == (0, 2) for path in drawn) / 600 == pytest.approx(0.125, abs=0.05)


def test_ucb_is_the_formula_and_visits_each_child_first() -> None:
    searcher = TreeSearch(Space(Affine([1, 2, 3]), (3,)), 0.7)
    searcher.nodes = {(): (6, 3.0), (0,): (3, 1.2), (1,): (2, 1.4)}
    assert {searcher.best_child((), 3, rng(seed)) for seed in range(5)} == {2}
    searcher.nodes[(2,)] = (1, 0.4)
    scores = [total / n + 0.7 * math.sqrt(2 * math.log(6) / n) for n, total in ((3, 1.2), (2, 1.4), (1, 0.4))]
    assert searcher.best_child((), 3, rng()) == int(np.argmax(scores))
    searcher.exploration = 0.0
    assert searcher.best_child((), 3, rng()) == 1  # the best mean
    searcher.nodes[(0,)] = (2, 1.4)
    assert {searcher.best_child((), 3, rng(seed)) for seed in range(20)} == {0, 1}


def test_tree_search_finds_the_better_of_two_arms() -> None:
    searcher = TreeSearch(Space(Affine([1, 2]), (3,)), 0.5)
    paths = walk(searcher, 100, lambda model: 0.2 + 0.6 * (model.get_outdim() == (2,)))
    assert sum(path == [1] for path in paths) > 80


def test_statistics_follow_the_walk_and_not_the_rollout() -> None:
    space = Space(Concat([Affine([1, 2]), Affine([1, 2, 3]), Affine([1, 2])]), (3,))
    searcher = TreeSearch(space, 0.5)
    walk(searcher, 1, lambda model: 0.5)
    assert searcher.nodes == {(): (1, 0.5)}
    walk(searcher, 2, lambda model: 0.25)
    assert set(searcher.nodes) == {(), (0,), (1,)}
    assert searcher.nodes[()] == (3, 1.0)
    walk(searcher, 40, lambda model: 0.5)
    for node, (visits, _) in searcher.nodes.items():
        below = [n for child, (n, _) in searcher.nodes.items() if child[:-1] == node and len(child) == len(node) + 1]
        assert visits >= sum(below)


def test_bisected_tree_search_homes_in_on_a_value_that_plain_tree_search_only_spreads_over() -> None:
    def late(program: Module) -> float:
        space = Space(program, (1, 8, 8))
        means = []
        for seed in range(3):
            paths = walk(TreeSearch(space, 0.5), 48, seed=seed)
            means.append(np.mean([closeness(space.build(path)) for path in paths[16:]]))
        return float(np.mean(means))

    program = Concat([UserHyperparams(lr=logarithmic(1e-1, 1e-5, 16)), ReLU()])
    assert late(ChoiceBisection(program)) > late(program) + 0.05


def models(*programs: Module) -> list[Module]:
    return [Space(program, (3,)).start() for program in programs]


def test_words_of_the_surrogate() -> None:
    model = models(Concat([UserHyperparams(lr=[0.1], batch_size=[4]), Empty(), ReLU(), Affine([2])]))[0]
    types = SurrogateSearch(Space(ReLU(), (3,)), "types")
    assert types.words(model, empty=True) == [("UserHyperparams",), ("Empty",), ("ReLU",), ("Affine",)]
    assert types.words(model, empty=False) == [("UserHyperparams",), ("ReLU",), ("Affine",)]
    full = SurrogateSearch(Space(ReLU(), (3,)), "full")
    expected = [("UserHyperparams", "lr", 0.1), ("UserHyperparams", "batch_size", 4), ("ReLU",), ("Affine", "units", 2)]
    assert full.words(model, empty=False) == expected


def test_features_are_counts_of_ngrams_with_the_quirks_of_the_released_code() -> None:
    space = Space(ReLU(), (3,))
    three = models(*[Concat([ReLU(), Tanh(), ReLU(), Empty(), Affine([2])])] * 3)
    types = SurrogateSearch(space, "types")
    types.vocabulary = types.ngrams(three)
    a, b = ("ReLU",), ("Tanh",)
    # Without Empty the sentence is ReLU Tanh ReLU Affine; windows stop one word before its end.
    assert set(types.vocabulary) == {(a,), (b,), (a, b), (b, a), (a, b, a)}
    features = dict(zip(types.vocabulary, types.features(three[0])[1:], strict=True))
    assert features == {(a,): 2, (b,): 1, (a, b): 1, (b, a): 1, (a, b, a): 1}
    assert types.features(three[0])[0] == 5  # all basic modules
    assert types.ngrams(three[:2]) == {(a,): 0}  # twice two; the rest is seen less than three times

    full = SurrogateSearch(space, "full")
    full.vocabulary = full.ngrams(three)
    c = ("Affine", "units", 2)
    assert {(c,), (a, c), (b, a, c), (a, b, a, c)} <= set(full.vocabulary)
    assert len(full.vocabulary) == 3 + 3 + 2 + 1
    assert all(len(ngram) <= 4 for ngram in full.vocabulary)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 60), st.integers(0, 2**31))
def test_ridge_is_scikit_learns(rows: int, columns: int, seed: int) -> None:
    from sklearn.linear_model import Ridge

    x, y = rng(seed).poisson(2, (rows, columns)).astype(float), rng(seed + 1).random(rows)
    weights, intercept = fit_ridge(x, y, 1e3)
    oracle = Ridge(alpha=1e3).fit(x, y)
    np.testing.assert_allclose(weights, oracle.coef_, rtol=1e-6, atol=1e-12)
    assert intercept == pytest.approx(oracle.intercept_, rel=1e-6)


def test_surrogate_is_refitted_to_past_models_only_and_picks_the_most_promising() -> None:
    space = Space(Concat([RepeatTied(Concat([Affine([3]), ReLU()]), range(1, 9)), Affine([2])]), (3,))
    searcher = SurrogateSearch(space, "types", explore=0.0)

    def shallow(model: Module) -> float:
        return 1 - sum(1 for _ in model.basic()) / 20

    depths = [path[0] + 1 for path in walk(searcher, 20, shallow)]
    assert np.mean(depths[4:]) < 1.5
    words = {word for model, _ in searcher.known[:-1] for word in searcher.windows(searcher.words(model, empty=False))}
    assert set(searcher.vocabulary) <= words
    explorer = SurrogateSearch(space, "types", explore=1.0)
    assert walk(explorer, 6, shallow) == walk(RandomSearch(space), 6, shallow)  # the first of those drawn


def test_types_cannot_see_a_learning_rate_and_full_can() -> None:
    space = Space(Concat([UserHyperparams(lr=logarithmic(1e-1, 1e-4, 6)), ReLU()]), (3,))
    slow, fast = space.build([5]), space.build([2])
    surrogates = {name: SurrogateSearch(space, name, explore=1.0) for name in ("types", "full")}  # type: ignore[arg-type]
    for searcher in surrogates.values():
        walk(searcher, 40)
        searcher.vocabulary = searcher.ngrams([model for model, _ in searcher.known])
    types, full = surrogates["types"], surrogates["full"]
    assert np.array_equal(types.features(slow), types.features(fast))
    x, y = np.stack([full.features(model) for model, _ in full.known]), np.array([score for _, score in full.known])
    weights, _ = fit_ridge(x, y, full.ridge)
    assert full.features(fast) @ weights > full.features(slow) @ weights


# The search ---------------------------------------------------------------------------------


def method(searcher: str = "mcts", **given: Any) -> DeepArchitect:
    small: dict[str, Any] = {
        "candidates": 5,
        "burn_in": 2,
        "epochs": 1,
        "bisect": searcher == "mcts",
        "thresholds": [0.1],
    }
    return DeepArchitect(
        **({"space": deepconv(10, **MINI), "hyperparameters": HYPERPARAMETERS} | small | given),
        in_shape=[1, 8, 8],
        num_classes=10,
        searcher=searcher,
    )


def digits() -> Digits:
    sizes = {"n_train": 100, "n_val": 60, "n_test": 60}
    return Digits(root="", cache="", in_shape=[1, 8, 8], in_features=64, num_classes=10, **sizes)


def values(trainer: pl.Trainer) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.mark.parametrize("searcher", ["mcts", "smbo"])
def test_cold_warm_killed_and_resumed_end_bit_identically(
    fit: Callable[..., Any], saving: Callable[..., Any], tmp_path: Path, searcher: str
) -> None:
    class Stopped(DeepArchitect):
        def propose(self, item: int) -> list[int]:
            if item == 3:
                raise KeyboardInterrupt
            return super().propose(item)

    folder = tmp_path / "experiment" / "hash" / "seed0"
    alone, cold, warm = method(searcher), method(searcher, share=True), method(searcher, share=True)
    expected = values(fit(alone, digits()))
    assert values(fit(cold, digits(), default_root_dir=folder)) == expected
    assert values(fit(warm, digits(), default_root_dir=folder)) == expected
    assert warm.tables == cold.tables == alone.tables
    assert (cold.table.hits, warm.table.trainings) == (6 - cold.table.trainings, 0)

    stopped = method(searcher)
    stopped.__class__ = Stopped
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(stopped, digits(), callbacks=[saving(tmp_path / "last.ckpt")])
    resumed = method(searcher)
    assert values(fit(resumed, digits(), resume=tmp_path / "last.ckpt")) == expected
    assert resumed.tables == alone.tables


def test_one_model_by_different_choices_is_one_candidate() -> None:
    plain, bisected = method("random"), method("mcts")
    paths = itertools.islice(leaves(bisected.space), 40)
    for path, model in paths:
        assert bisected.content(list(path)) == model.code()
    wanted = bisected.content(list(path))
    assert any(plain.content(list(path)) == wanted for path, _ in itertools.islice(leaves(plain.space), 60))


def test_arms_that_begin_alike_share_their_first_model(fit: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "experiment" / "hash" / "seed0"
    first, second = method("random", share=True, candidates=3), method("smbo", share=True, candidates=3)
    fit(first, digits(), default_root_dir=folder)
    fit(second, digits(), default_root_dir=folder)
    assert second.table.hits >= 1
    assert second.history[0] == first.history[0]


def test_accuracy_of_a_candidate_is_that_of_its_network(fit: Callable[..., Any]) -> None:
    search = method("random", candidates=1, burn_in=0, epochs=2)
    logged = values(fit(search, digits()))
    spec, score = search.history[0]
    assert search.evaluate(spec, Stream(*search.streams.noise.key, 0))["val"] == score
    assert logged["val/share_10"] == float(score > 0.1)
    assert search.tables["thresholds"] == [{"threshold": 0.1, "share": logged["val/share_10"]}]


def test_training_takes_the_published_hyperparameters() -> None:
    search = method()
    adam, sgd = search.optimizer("adam", 0.03), search.optimizer("sgd_mom", 0.5)
    parameters = [nn.Parameter(torch.zeros(1))]
    assert isinstance(adam(parameters), torch.optim.Adam)
    assert adam(parameters).param_groups[0]["lr"] == 0.03
    assert (sgd(parameters).param_groups[0]["momentum"], sgd(parameters).param_groups[0]["lr"]) == (0.9, 0.5)


def test_whitened_pixels_have_the_training_images_statistics(fit: Callable[..., Any]) -> None:
    search = method("random", candidates=1, burn_in=0, whiten=True, augment=True)
    fit(search, digits())
    spread = search.data["train"]["x"].std(0)
    assert torch.allclose(search.data["train"]["x"].mean(0), torch.zeros(1, 8, 8), atol=1e-5)
    assert torch.allclose(spread[spread > 0], torch.ones(()), atol=1e-4)


def test_crops_are_windows_of_the_padded_image_and_half_are_flipped() -> None:
    x = torch.arange(1.0, 1 + 200 * 2 * 6 * 5).reshape(200, 2, 6, 5)
    moved = crop_and_flip(x, torch.Generator().manual_seed(0), pad=2)
    padded = nn.functional.pad(x, [2] * 4)
    flips, places = 0, set()
    for before, after in zip(padded, moved, strict=True):
        found = [
            (top, left, flipped)
            for top, left, flipped in itertools.product(range(5), range(5), (False, True))
            if torch.equal(after, (before.flip(2) if flipped else before)[:, top : top + 6, left : left + 5])
        ]
        assert len(found) == 1
        flips += found[0][2]
        places.add(found[0][:2])
    assert 70 < flips < 130
    assert len(places) == 25


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"exploration": -1.0}, "method.exploration"),
        ({"surrogate": "names"}, "method.surrogate"),
        ({"searcher": "tpe"}, "method.searcher"),
        ({"epochs": 0}, "method.epochs"),
        ({"hyperparameters": {"lr": [0.1], "batch_size": [8]}}, "method.hyperparameters.optimizer"),
        ({"hyperparameters": HYPERPARAMETERS | {"optimizer": ["lion"]}}, "adam, sgd_mom"),
        ({"hyperparameters": HYPERPARAMETERS | {"rate_mult": [0.1]}}, "rate_patience"),
        ({"hyperparameters": HYPERPARAMETERS | {"lr_mult": [0.1]}}, "did you mean 'rate_mult'"),
    ],
)
def test_wrong_values_are_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        method(**wrong)


def test_a_model_of_the_paper_space_takes_two_steps() -> None:
    """All hyper-parameters, filters and sizes of the paper; four of the 32 blocks, for time."""
    from replicata.run import compose as composing
    from replicata.run.instantiate import instantiate

    config = composing.compose(["experiment=search/deep_architect_paper", "method.space.repeats=[1,2,4]"])
    search = instantiate(config.method, "method")
    model = search.space.start()
    while not model.is_specified():
        model.choose(len(model.get_choices()[1]) - 1)
    assert published(model)["rate_patience"] == 32
    network = model.compile().to(memory_format=torch.channels_last)
    optimizer = search.optimizer("adam", 0.01)(network.parameters())
    x, y = torch.randn(4, 3, 32, 32), torch.arange(4)
    for _ in range(2):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(crop_and_flip(x, torch.Generator())), y)
        loss.backward()
        optimizer.step()
    assert bool(loss.isfinite())
    assert sum(parameter.numel() for parameter in network.parameters()) > 8e6
