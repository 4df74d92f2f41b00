"""Steps 4 and 5: each sub-network loses its outputs without computation and is compiled by itself."""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from replicata.methods.efficient.dycl.backends import Backend, Executable, torchscript, trace
from replicata.methods.efficient.dycl.host import host_source
from replicata.methods.efficient.dycl.program import LogicNode, Node, Program, ProgramError, TensorNode
from replicata.methods.efficient.dycl.rewrite import rewrite

# Operators that hand on their first argument; dropout does so in evaluation mode.
IDENTITIES = frozenset({"aten::alias", "aten::contiguous", "aten::detach", "aten::dropout", "aten::dropout_"})


class Piece(nn.Module):
    """A sub-network as a module, which owns those parts of the model that its statements name.

    A back end looks at all that a module owns, so owning the whole model would cost its size for every sub-network.
    """

    def __init__(self, model: nn.Module, parts: Sequence[nn.Module | Tensor], function: Callable[..., Any]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        for number, part in enumerate(parts):
            if isinstance(part, nn.Parameter):
                self.register_parameter(f"parameter{number}", part)
            elif isinstance(part, Tensor):
                self.register_buffer(f"buffer{number}", part)
        self.function = partial(function, model)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


@dataclass
class SubNetwork:
    """A compiled tensor node.

    Attributes:
        inputs, outputs: Names of variables.
        executable: ``None`` if nothing is left to compute.
        copies: Outputs that are inputs, which the host assigns itself (S1), by name.
        constants: Outputs that depend on no input, likewise (S2).
    """

    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    executable: Executable | None = None
    copies: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Any] = field(default_factory=dict)


class Compiled:
    """A compiled program: called like the model, on inputs of the shapes that it was compiled for.

    Attributes:
        program: The graph it was made from.
        sub_networks: By node; those that disappeared are among them, without executable.
        source: Source text of the host function.
        host: The function itself.
    """

    def __init__(self, program: Program, sub_networks: dict[Node, SubNetwork]) -> None:
        self.program, self.sub_networks = program, sub_networks
        self.source, scope = host_source(program, sub_networks)
        exec(compile(self.source, f"<host of {type(program.model).__name__}>", "exec"), scope)
        self.host: Callable[..., Any] = scope["host"]

    def __call__(self, *inputs: Tensor) -> Any:
        return self.host(*inputs)

    @property
    def executables(self) -> list[SubNetwork]:
        return [found for found in self.sub_networks.values() if found.executable is not None]

    @property
    def outputs(self) -> int:
        """Outputs of all sub-networks together."""
        return sum(len(found.outputs) for found in self.executables)


@torch.no_grad()
def dycl(
    model: nn.Module, inputs: Sequence[Tensor], *, backend: Backend = torchscript, optimise: bool = True
) -> Compiled:
    """Compile a dynamic network.

    Args:
        model: In evaluation mode.
        inputs: Example inputs; only their shapes and types matter.
        backend: Compiler of the sub-networks.
        optimise: Whether step 4 is taken.

    Raises:
        ProgramError: if the forward function is outside the subset of Python that can be rewritten.
    """
    program = rewrite(model)
    return Compiled(program, _Compiler(program, backend, optimise).run(inputs))


@dataclass(frozen=True)
class Several:
    """An example for a variable that has another shape or value on every path: the host may pass it on, no more."""

    name: str


class _Compiler:
    """Algorithm 2: in topological order, each node gets its example inputs from the nodes before it."""

    def __init__(self, program: Program, backend: Backend, optimise: bool) -> None:
        self.program, self.backend, self.optimise = program, backend, optimise
        self.arriving: dict[Node, list[dict[str, Any]]] = {node: [] for node in program.nodes}

    def run(self, inputs: Sequence[Tensor]) -> dict[Node, SubNetwork]:
        self.arriving[self.program.nodes[0]].append(dict(zip(self.program.parameters, inputs, strict=True)))
        compiled: dict[Node, SubNetwork] = {}
        for node in self.program.nodes:  # in this order all predecessors are done
            examples = merge(self.arriving[node])
            if isinstance(node, TensorNode):
                compiled[node], made = self.compile(node, examples)
                self.hand_on(node.next, examples | made)
            elif isinstance(node, LogicNode):  # both branches, whatever the example input does
                self.hand_on(node.then, examples)
                self.hand_on(node.otherwise, examples)
        return compiled

    def hand_on(self, node: Node | None, examples: dict[str, Any]) -> None:
        assert node is not None
        self.arriving[node].append(examples)

    def compile(self, node: TensorNode, examples: dict[str, Any]) -> tuple[SubNetwork, dict[str, Any]]:
        """The compiled sub-network, and examples of the variables that it writes."""
        given = [self.example(name, examples) for name in node.inputs]
        made = self.evaluate(node.statements, node.inputs, node.outputs, given)
        found = self.classify(node, given, made)
        outputs = tuple(name for name in node.outputs if name not in found.copies and name not in found.constants)
        if outputs:
            statements, _ = self.program.needed(node.statements, set(outputs))
            found.inputs, found.outputs = self.program.interface(statements)[0], outputs
            module = self.module(statements, found.inputs, outputs)
            found.executable = self.backend(module, [examples[name] for name in found.inputs])
        return found, made

    def example(self, name: str, examples: dict[str, Any]) -> Tensor:
        value = examples.get(name)
        if isinstance(value, Several):
            raise ProgramError(f"{name} has another shape or value on every path: no sub-network can be compiled")
        if not isinstance(value, Tensor):
            raise ProgramError(f"{name} is a {type(value).__name__} that depends on the path: keep it in a tensor")
        return value

    def evaluate(
        self, statements: list[ast.Assign], inputs: Sequence[str], outputs: Sequence[str], given: list[Tensor]
    ) -> dict[str, Any]:
        """Run the original code."""
        with StraightLine():
            result = self.program.function(statements, inputs, outputs)(self.program.model, *given)
        return dict(zip(outputs, result if len(outputs) > 1 else (result,), strict=True))

    def module(self, statements: list[ast.Assign], inputs: Sequence[str], outputs: Sequence[str]) -> Piece:
        program = self.program
        return Piece(program.model, program.parts(statements), program.function(statements, inputs, outputs))

    # Step 4 ----------------------------------------------------------------------------------

    def classify(self, node: TensorNode, given: list[Tensor], made: dict[str, Any]) -> SubNetwork:
        """Which outputs the host can take over. Numbers always go there: an executable returns tensors."""
        found = SubNetwork()
        for name, value in made.items():
            if isinstance(value, bool | int | float | str | None):
                found.constants[name] = value
            elif not isinstance(value, Tensor):
                raise ProgramError(f"{name} is a {type(value).__name__}: sub-networks exchange tensors only")
        names = [name for name in node.outputs if name not in found.constants]
        if not names or not self.optimise:
            return found
        graph = trace(self.module(node.statements, node.inputs, names), given).inlined_graph
        returned = next(graph.outputs())
        values = list(returned.node().inputs()) if len(names) > 1 else [returned]
        parameters = [parameter.debugName() for parameter in graph.inputs()][1:]  # the first one is the module
        for name, value in zip(names, values, strict=True):
            origin = behind_identities(value)
            if origin in parameters:  # S1
                found.copies[name] = node.inputs[parameters.index(origin)]
            elif is_constant(value, parameters):  # S2
                found.constants[name] = made[name]
        return found


class StraightLine(TorchDispatchMode):
    """While it is active, an operator whose result a program could branch on is refused.

    What a sub-network calls is traced and not rewritten, so a condition on a tensor in there would be frozen.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags:
            raise ProgramError(f"a call in a sub-network looks at the values of a tensor ({func}): decide in forward")
        return func(*args, **(kwargs or {}))


def behind_identities(value: Any) -> str:
    """Name of the value that a graph value is a mere copy of."""
    while (node := value.node()).kind() in IDENTITIES:
        arguments = list(node.inputs())
        if "dropout" in node.kind() and arguments[2].toIValue() is not False:
            break
        value = arguments[0]
    return value.debugName()


def is_constant(value: Any, parameters: Collection[str]) -> bool:
    """Whether a graph value is computed from none of the named ones, and without chance."""
    seen: set[str] = set()
    pending = [value]
    while pending:
        value = pending.pop()
        name = value.debugName()
        if name in parameters or value.node().isNondeterministic():
            return False
        if name not in seen:
            seen.add(name)
            pending += value.node().inputs()
    return True


def merge(arriving: list[dict[str, Any]]) -> dict[str, Any]:
    """Examples at a node: those of any predecessor, if all of them agree on shape and type."""
    merged: dict[str, Any] = {}
    for examples in arriving:
        for name, value in examples.items():
            known = merged.setdefault(name, value)
            if _signature(known) != _signature(value):
                merged[name] = Several(name)
    return merged


def _signature(value: Any) -> Any:
    return (value.shape, value.dtype) if isinstance(value, Tensor) else value
