"""What a network costs, in counts: parameters, multiply-accumulates, calls, bytes.

    with MACs(model) as macs, Calls(model) as calls, SavedBytes(model) as saved:
        model(x)
    macs.total, calls.total, saved.total

Counts do not depend on the machine or its load, so claims are gated on them and not on seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

# Gates of each recurrent layer: how many products with the input and with the state a step makes.
GATES = {nn.RNN: 1, nn.GRU: 3, nn.LSTM: 4, nn.RNNCell: 1, nn.GRUCell: 3, nn.LSTMCell: 4}


def count_parameters(module: nn.Module, *, trainable: bool = False, nonzero: bool = False) -> int:
    """Number of parameters, shared ones once.

    Args:
        module: Any module.
        trainable: Only those that require a gradient.
        nonzero: Only entries that are not zero, as of a pruned network.
    """
    chosen = [parameter for parameter in module.parameters() if parameter.requires_grad or not trainable]
    return sum(int(parameter.count_nonzero()) if nonzero else parameter.numel() for parameter in chosen)


def count_bytes(tensors: Tensor | Iterable[Tensor]) -> int:
    """Bytes that the tensors' elements take when stored or sent."""
    every = [tensors] if isinstance(tensors, Tensor) else tensors
    return sum(tensor.numel() * tensor.element_size() for tensor in every)


class MACs:
    """Multiply-accumulates of the matrix products, convolutions and attentions that run inside the ``with``.

    What is not executed is not counted: an early exit, a gate, a cell that is skipped. Backward passes count as
    well. Additions, activations and normalisations are left out, as usual. The fused kernels of recurrent layers
    cannot be looked into and are counted by formula: :math:`g\\,h\\,(i + h)` for each step, layer and direction with
    :math:`g` gates, and the projection of a projected LSTM.

    Args:
        model: The module whose recurrent layers may run; ``None``: it has none.

    Attributes:
        total: The count, after the ``with``.
    """

    total: int = 0

    def __init__(self, model: nn.Module | None = None) -> None:
        layers = [] if model is None else list(model.modules())
        self._recurrent = [layer for layer in layers if isinstance(layer, tuple(GATES))]
        self._counter = FlopCounterMode(display=False)
        self._by_formula = 0
        self._inside = 0
        self._before: list[int] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        for layer in self._recurrent:
            self._hooks.append(layer.register_forward_pre_hook(self._enter))
            self._hooks.append(layer.register_forward_hook(self._leave))
        self._counter.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._counter.__exit__(*error)
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self.total = (self._counter.get_total_flops() - self._inside) // 2 + self._by_formula

    def _enter(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._before.append(self._counter.get_total_flops())

    def _leave(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._inside += self._counter.get_total_flops() - self._before.pop()
        x = inputs[0]
        features = x.data if isinstance(x, PackedSequence) else x
        self._by_formula += recurrent_macs(layer) * (features.numel() // features.shape[-1])


def recurrent_macs(layer: nn.Module) -> int:
    """Multiply-accumulates of one step of one sequence: of all layers and directions, without biases."""
    gates = next(count for kind, count in GATES.items() if isinstance(layer, kind))
    hidden = int(layer.hidden_size)  # type: ignore[arg-type]
    size = int(layer.input_size)  # type: ignore[arg-type]
    if not isinstance(layer, nn.RNNBase):
        return gates * hidden * (size + hidden)
    state = layer.proj_size or hidden
    directions = 2 if layer.bidirectional else 1
    projection = hidden * layer.proj_size
    total = 0
    for number in range(layer.num_layers):
        into = size if number == 0 else state * directions
        total += directions * (gates * hidden * (into + state) + projection)
    return total


class Calls:
    """Forward passes of a module inside the ``with``: function evaluations of a solver, queries to a victim.

    Args:
        module: The module; calls of its submodules from elsewhere do not count.

    Attributes:
        total: Number of calls.
        examples: Sum of the lengths of their first argument.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.total = 0
        self.examples = 0

    def __enter__(self) -> Self:
        self._hook = self._module.register_forward_pre_hook(self._count)
        return self

    def __exit__(self, *error: Any) -> None:
        self._hook.remove()

    def _count(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.total += 1
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim:
            self.examples += len(inputs[0])


class SavedBytes:
    """Bytes kept for the backward pass by what runs inside the ``with``: the memory that depth costs.

    A tensor that several operations keep counts once, however they see it (transposed, sliced). Parameters and
    buffers of the module are there anyway and do not count.

    Args:
        module: The module whose own tensors are left out; ``None``: every tensor counts.
        without: Further tensors that are there anyway, such as the batch.

    Attributes:
        total: The number of bytes.
    """

    def __init__(self, module: nn.Module | None = None, without: Mapping[str, Tensor] | None = None) -> None:
        own = [] if module is None else [*module.parameters(), *module.buffers()]
        self._there = {_storage(tensor) for tensor in [*own, *(without or {}).values()]}
        self._kept: list[Tensor] = []  # held, so that no storage is freed and another takes its address
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self.total = 0

    def __enter__(self) -> Self:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)
        storages = {_storage(tensor): tensor.untyped_storage().nbytes() for tensor in self._kept}
        self.total = sum(size for place, size in storages.items() if place not in self._there)
        self._kept.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        self._kept.append(tensor.detach())
        return tensor


def _storage(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()
