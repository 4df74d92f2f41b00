"""The ways to run a dynamic network that are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from replicata.methods.efficient.dycl.backends import Backend, frozen, quiet, trace
from replicata.methods.efficient.dycl.compile import dycl

Compiler = Literal["eager", "naive_trace", "dycl", "dycl_no_graphopt", "script", "torch_compile"]
COMPILERS: tuple[str, ...] = get_args(Compiler)


def build(compiler: str, model: nn.Module, inputs: Sequence[Tensor], backend: Backend) -> Callable[..., Any]:
    """The model as a callable.

    Args:
        compiler: ``eager``: the model itself; ``naive_trace``: the whole forward as it went on the example inputs;
            ``dycl``; ``dycl_no_graphopt``: without step 4; ``script``: the whole forward by TorchScript's own
            compiler, which keeps conditions; ``torch_compile``: likewise by TorchDynamo, which cuts at conditions.
        model: In evaluation mode.
        inputs: Example inputs.
        backend: Compiler of DyCL's sub-networks.
    """
    if compiler == "eager":
        return model
    if compiler == "naive_trace":
        return frozen(trace(model, inputs))
    if compiler == "script":
        with quiet():
            return frozen(torch.jit.script(model))
    if compiler == "torch_compile":
        return torch.compile(model)
    return dycl(model, inputs, backend=backend, optimise=compiler == "dycl")
