"""Counts of parameters, multiply-accumulates, calls and bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from replicata.metrics.cost import Calls, MACs, SavedBytes, count_bytes, count_parameters, recurrent_macs
from replicata.models.lenet import LeNet

MODES: list[Callable[[], AbstractContextManager[object]]] = [torch.enable_grad, torch.no_grad, torch.inference_mode]


def macs_of(model: nn.Module, *inputs: object) -> int:
    with MACs(model) as macs:
        model(*inputs)
    return macs.total


def test_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2, bias=False))
    assert count_parameters(model) == 24
    model[0].requires_grad_(False)
    assert count_parameters(model, trainable=True) == 8
    nn.init.zeros_(model[0].bias)
    assert count_parameters(model, nonzero=True) == 20
    tied = nn.Sequential(model[1], nn.Identity(), model[1])
    assert count_parameters(tied) == 8


def test_bytes_of_tensors() -> None:
    assert count_bytes([torch.zeros(3, 5), torch.zeros(7, dtype=torch.uint8)]) == 67
    assert count_bytes(torch.zeros(4, dtype=torch.float16)) == 8


@pytest.mark.parametrize("mode", MODES)
def test_macs_of_the_caffe_lenet_are_the_published_ones(
    mode: Callable[[], AbstractContextManager[object]],
) -> None:
    with mode():
        assert macs_of(LeNet([1, 28, 28], 10, form="caffe"), torch.rand(1, 1, 28, 28)) == 2_293_000


def test_only_what_runs_is_counted() -> None:
    class Exit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.late = nn.Linear(5, 2), nn.Linear(5, 100)

        def forward(self, x: Tensor) -> Tensor:
            return self.early(x) if x.sum() > 0 else self.late(x)

    assert macs_of(Exit(), torch.ones(3, 5)) == 30
    assert macs_of(Exit(), -torch.ones(3, 5)) == 1500


def test_the_backward_pass_costs_twice_the_forward_pass() -> None:
    layer, x = nn.Linear(6, 4), torch.rand(5, 6, requires_grad=True)
    with MACs(layer) as macs:
        layer(x).sum().backward()
    assert macs.total == 3 * 5 * 6 * 4


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from([nn.RNN, nn.GRU, nn.LSTM]),
    size=st.integers(1, 5),
    hidden=st.integers(2, 5),
    layers=st.integers(1, 3),
    both=st.booleans(),
)
def test_a_step_of_a_recurrent_layer_multiplies_each_of_its_weights_once(
    kind: type[nn.RNNBase], size: int, hidden: int, layers: int, both: bool
) -> None:
    layer = kind(size, hidden, layers, bidirectional=both)
    weights = sum(parameter.numel() for name, parameter in layer.named_parameters() if name.startswith("weight"))
    assert recurrent_macs(layer) == weights
    assert macs_of(layer, torch.rand(7, 3, size)) == 21 * weights


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_projected_lstm_cells_and_packed_sequences() -> None:
    projected = nn.LSTM(3, 6, 2, proj_size=2, bidirectional=True)
    weights = sum(p.numel() for name, p in projected.named_parameters() if name.startswith("weight"))
    assert macs_of(projected, torch.rand(4, 1, 3)) == 4 * weights
    for cell in (nn.RNNCell(3, 4), nn.GRUCell(3, 4), nn.LSTMCell(3, 4)):
        assert macs_of(cell, torch.rand(2, 3)) == 2 * recurrent_macs(cell)
    lengths = pack_sequence([torch.rand(5, 3), torch.rand(2, 3)])
    assert macs_of(nn.GRU(3, 4), lengths) == 7 * 3 * 4 * (3 + 4)


def test_recurrent_and_other_layers_add_up() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTM(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    assert macs_of(Tagger(), torch.rand(5, 2, 3)) == 10 * (4 * 4 * 7 + 8)


def test_calls() -> None:
    field = nn.Linear(2, 2)
    with Calls(field) as calls:
        state = torch.rand(3, 2)
        for _ in range(6):
            state = state + 0.1 * field(state)
    field(state)
    assert calls.total == 6
    assert calls.examples == 18


def test_saved_bytes_grow_with_depth_and_leave_out_parameters() -> None:
    def saved(depth: int, no_grad: bool = False) -> int:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()) for _ in range(depth)))
        batch = {"x": torch.rand(10, 8)}
        with torch.set_grad_enabled(not no_grad), SavedBytes(model, batch) as kept:
            model(batch["x"])
        return kept.total

    assert saved(1) == 10 * 8 * 4  # the sigmoid keeps its output; the linear layer its input, the batch
    assert saved(3) == 3 * saved(1)  # the next layer's input is that output again
    assert saved(3, no_grad=True) == 0


def test_saved_bytes_without_a_module_count_weights_and_inputs() -> None:
    layer, x = nn.Linear(3, 2, bias=False), torch.rand(5, 3, requires_grad=True)
    with SavedBytes() as kept:
        layer(x)
    assert kept.total == (5 * 3 + 2 * 3) * 4
