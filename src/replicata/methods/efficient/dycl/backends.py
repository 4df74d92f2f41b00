"""Compilers of condition-free sub-networks, behind one interface: a module and example inputs in, a callable out."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Executable = Callable[..., Any]
Backend = Callable[[nn.Module, Sequence[Tensor]], Executable]


def torchscript(module: nn.Module, inputs: Sequence[Tensor]) -> Executable:
    """Traced and frozen: weights become constants, batch normalisation is folded into convolutions.

    TorchScript is deprecated; a sub-network is straight-line code, so ``torch.export`` can take its place.
    """
    return frozen(trace(module, inputs))


def torchscript_blocked(module: nn.Module, inputs: Sequence[Tensor]) -> Executable:
    """The same, and convolutions in oneDNN's blocked layout: every sub-network converts what it reads and writes."""
    with quiet():
        return torch.jit.optimize_for_inference(frozen(trace(module, inputs)))


def torch_compile(module: nn.Module, inputs: Sequence[Tensor]) -> Executable:
    """Inductor, which needs a C++ compiler; compiled on the example inputs, and not again for other shapes."""
    # Exported first: modules of one class share their code, and Dynamo's cache for it has few places.
    compiled = torch.compile(torch.export.export(module, tuple(inputs)).module(), dynamic=False)
    compiled(*inputs)
    return compiled


def onnxruntime(module: nn.Module, inputs: Sequence[Tensor]) -> Executable:
    """An ONNX graph on one CPU thread; needs the packages onnx, onnxscript and onnxruntime."""
    import onnxruntime as runtime  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "sub_network.onnx"
        torch.onnx.export(module, tuple(inputs), str(path), dynamo=True, external_data=False, verbose=False)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(*tensors: Tensor) -> Any:
        arrays = (tensor.detach().numpy() for tensor in tensors)
        outputs = [torch.from_numpy(found) for found in session.run(None, dict(zip(names, arrays, strict=True)))]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    return run


BACKENDS: dict[str, Backend] = {
    "torchscript": torchscript,
    "torchscript_blocked": torchscript_blocked,
    "onnxruntime": onnxruntime,
    "torch_compile": torch_compile,
}


def trace(module: nn.Module, inputs: Sequence[Tensor]) -> torch.jit.ScriptModule:
    """What the module does on the example inputs, whatever conditions it passed on the way."""
    with quiet():
        traced = torch.jit.trace(module.eval(), tuple(inputs), check_trace=False)
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced


def frozen(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    with quiet():
        return torch.jit.freeze(script)


@contextmanager
def quiet() -> Iterator[None]:
    """Without deprecation and tracer warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
