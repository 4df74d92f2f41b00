"""The convolutional network with early exits, and where confidences stop it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replicata.models.early_exit import EarlyExitCNN
from replicata.nn.exits import balanced_threshold, exit_paths, largest_share


def network(threshold: float = 0.9) -> EarlyExitCNN:
    torch.manual_seed(0)
    return EarlyExitCNN([1, 8, 8], 4, [4, 6, 8], threshold=threshold).eval()


@torch.no_grad()
def test_inference_takes_the_path_and_output_that_the_exits_of_a_batch_say() -> None:
    net, x = network(), torch.randn(40, 1, 8, 8)
    net.calibrate(x)
    outputs = net.outputs(x)
    paths = exit_paths(outputs.softmax(-1).amax(-1), net.threshold)
    assert len(paths.unique()) > 1
    for i in range(len(x)):
        output, path = net(x[i : i + 1])
        assert int(path) == int(paths[i])
        torch.testing.assert_close(output[0], outputs[int(path) % 3, i])


def test_first_exit_with_enough_confidence_else_the_most_confident() -> None:
    confidence = torch.tensor([[0.9, 0.1, 0.5], [0.9, 0.8, 0.6], [0.2, 0.9, 0.4]])
    assert exit_paths(confidence, 0.8).tolist() == [0, 1, 3 + 1]


@given(st.integers(0, 1000), st.integers(2, 4), st.integers(8, 60))
@settings(max_examples=25, deadline=None)
def test_balanced_threshold_is_the_best_of_its_candidates(seed: int, exits: int, images: int) -> None:
    confidence = torch.rand(exits, images, generator=torch.Generator().manual_seed(seed))
    chosen = largest_share(exit_paths(confidence, balanced_threshold(confidence)))
    for level in torch.rand(10, generator=torch.Generator().manual_seed(seed)):
        nearest = (torch.linspace(0, 1, 201)[1:-1] - level).abs().argmin()
        candidate = confidence.flatten().quantile(torch.linspace(0, 1, 201)[1:-1][nearest])
        assert chosen <= largest_share(exit_paths(confidence, candidate)) + 1e-9


@torch.no_grad()
def test_expected_cost_counts_the_blocks_that_run() -> None:
    x = torch.randn(10, 1, 8, 8)
    assert network(threshold=0.0).expected_cost(x, [1.0, 2.0, 4.0]) == 1
    assert network(threshold=1.1).expected_cost(x, [1.0, 2.0, 4.0]) == 7


def test_wrong_values_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"model\.widths must name at least two"):
        EarlyExitCNN([1, 8, 8], 4, [4])
    with pytest.raises(ValueError, match=r"model\.widths: 5 blocks leave nothing"):
        EarlyExitCNN([1, 8, 8], 4, [4] * 5)
    with pytest.raises(ValueError, match=r"model\.convolutions"):
        EarlyExitCNN([1, 8, 8], 4, convolutions=0)
