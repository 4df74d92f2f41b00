"""The heterogeneous control-flow graph: a program cut at its conditions (step 2), and its interfaces (step 3)."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn


class ProgramError(ValueError):
    """The program is outside the subset of Python that can be compiled; says where and why."""


@dataclass(eq=False)
class TensorNode:
    """A sub-network: straight-line assignments.

    Attributes:
        statements: The assignments, dead ones removed.
        inputs: Variables read before they are written, in order.
        outputs: Variables written here and live afterwards, in order.
    """

    statements: list[ast.Assign] = field(default_factory=list)
    next: Node | None = None
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(eq=False)
class LogicNode:
    """One condition that depends on the input."""

    test: ast.expr
    then: Node | None = None
    otherwise: Node | None = None


@dataclass(eq=False)
class ExitNode:
    """A return of variables and constants."""

    value: ast.expr


Node = TensorNode | LogicNode | ExitNode


def successors(node: Node) -> tuple[Node, ...]:
    if isinstance(node, TensorNode):
        return (node.next,) if node.next is not None else ()
    if isinstance(node, LogicNode):
        assert node.then is not None
        assert node.otherwise is not None
        return (node.then, node.otherwise)
    return ()


@dataclass(eq=False)
class Program:
    """The graph of one model's forward function.

    Attributes:
        model: What ``self`` is.
        namespace: Global names of the function.
        parameters: Names of its inputs.
        variables: All its local variables.
        nodes: In topological order; the first one is the entry.
    """

    model: nn.Module
    namespace: dict[str, Any]
    parameters: tuple[str, ...]
    variables: frozenset[str]
    nodes: list[Node]

    @property
    def sub_networks(self) -> list[TensorNode]:
        return [node for node in self.nodes if isinstance(node, TensorNode)]

    @property
    def conditions(self) -> list[LogicNode]:
        return [node for node in self.nodes if isinstance(node, LogicNode)]

    # Step 3 ----------------------------------------------------------------------------------

    def analyse(self) -> None:
        """Live variables of every node, backwards; dead statements go, and sub-networks that have none left.

        The graph has no cycle, so one pass against the topological order is the fixed point.
        """
        live: dict[Node, set[str]] = {}
        for node in reversed(self.nodes):
            after: set[str] = set().union(*(live[successor] for successor in successors(node)))
            if isinstance(node, TensorNode):
                node.statements, live[node] = self.needed(node.statements, after)
                node.inputs, written = self.interface(node.statements)
                node.outputs = tuple(name for name in written if name in after)
            else:
                live[node] = after | self.reads(node.test if isinstance(node, LogicNode) else node.value)
        self._drop_empty()

    def needed(self, statements: Sequence[ast.Assign], after: set[str]) -> tuple[list[ast.Assign], set[str]]:
        """The statements that matter for the variables that are live after them, and what is live before them."""
        kept: list[ast.Assign] = []
        live = set(after)
        for statement in reversed(statements):
            written = names_of(statement.targets[0])
            if live.intersection(written):
                live = live.difference(written) | self.reads(statement.value)
                kept.append(statement)
        return kept[::-1], live

    def interface(self, statements: Sequence[ast.Assign]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Variables that statements read before they write them, and those that they write."""
        read: dict[str, None] = {}
        written: dict[str, None] = {}
        for statement in statements:
            read |= dict.fromkeys(
                node.id
                for node in ast.walk(statement.value)
                if isinstance(node, ast.Name) and node.id in self.variables and node.id not in written
            )
            written |= dict.fromkeys(names_of(statement.targets[0]))
        return tuple(read), tuple(written)

    def reads(self, expression: ast.expr) -> set[str]:
        """Local variables in an expression."""
        names = {node.id for node in ast.walk(expression) if isinstance(node, ast.Name)}
        return names & self.variables

    def _drop_empty(self) -> None:
        """Take out sub-networks without statements; what led to them leads to what follows."""

        def behind(node: Node | None) -> Node | None:
            while isinstance(node, TensorNode) and not node.statements:
                node = node.next
            return node

        for node in self.nodes:
            if isinstance(node, TensorNode):
                node.next = behind(node.next)
            elif isinstance(node, LogicNode):
                node.then, node.otherwise = behind(node.then), behind(node.otherwise)
        self.nodes = [node for node in self.nodes if not isinstance(node, TensorNode) or node.statements]

    # Running pieces as they are --------------------------------------------------------------

    def function(
        self, statements: Sequence[ast.stmt], inputs: Sequence[str], outputs: Sequence[str]
    ) -> Callable[..., Any]:
        """``(self, *inputs) -> outputs`` of straight-line statements; one output comes without a tuple."""
        body = "\n".join(f"    {ast.unparse(statement)}" for statement in statements)
        source = f"def piece({', '.join(['self', *inputs])}):\n{body}\n    return {', '.join(outputs)}\n"
        scope: dict[str, Any] = {}
        exec(compile(source, "<sub-network>", "exec"), self.namespace, scope)
        return scope["piece"]

    def parts(self, statements: Sequence[ast.stmt]) -> list[nn.Module | Tensor]:
        """Sub-modules and tensors of the model that statements name; all of it where they hand on ``self``."""
        found: dict[int, nn.Module | Tensor] = {}
        pending: list[ast.AST] = list(statements)
        while pending:
            node = pending.pop()
            part = self._evaluate(node, {"self": self.model}) if _is_path(node) else None
            if isinstance(part, nn.Module | Tensor):
                found.setdefault(id(part), part)
            else:
                pending += ast.iter_child_nodes(node)
        return list(found.values())

    def interpret(self, *inputs: Tensor) -> tuple[Any, float]:
        r"""Walk the graph without compiling anything.

        Returns:
            The program's result, and the margin of the closest of its decisions: the least :math:`|a - b|` over the
            comparisons of real numbers on the way.
        """
        variables: dict[str, Any] = {"self": self.model, **dict(zip(self.parameters, inputs, strict=True))}
        margin = float("inf")
        node: Node | None = self.nodes[0]
        while not isinstance(node, ExitNode):
            if isinstance(node, TensorNode):
                for statement in node.statements:
                    exec(_code(statement), self.namespace, variables)
                node = node.next
            else:
                assert isinstance(node, LogicNode)
                margin = min([margin, *self._margins(node.test, variables)])
                node = node.then if self._evaluate(node.test, variables) else node.otherwise
        return self._evaluate(node.value, variables), margin

    def _margins(self, test: ast.expr, variables: dict[str, Any]) -> Iterator[float]:
        for part in ast.walk(test):
            if isinstance(part, ast.Compare):
                sides = [self._evaluate(side, variables) for side in (part.left, *part.comparators)]
                if any(isinstance(side, Tensor) and side.is_floating_point() for side in sides):
                    yield from (float(abs(torch.as_tensor(left - right)).min()) for left, right in pairwise(sides))

    def _evaluate(self, expression: ast.expr, variables: dict[str, Any]) -> Any:
        return eval(_code(expression), self.namespace, variables)


def _code(node: ast.stmt | ast.expr) -> Any:
    """The node's code object, compiled once."""
    found = getattr(node, "code", None)
    if found is None:
        mode = "eval" if isinstance(node, ast.expr) else "exec"
        found = node.code = compile(ast.unparse(node), "<program>", mode)  # type: ignore[union-attr]
    return found


def _is_path(node: ast.AST) -> TypeGuard[ast.expr]:
    """Whether it is ``self``, or an attribute or a constant item of such a path."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
            return False
        node = node.value
    return isinstance(node, ast.Name) and node.id == "self"


def names_of(target: ast.expr) -> list[str]:
    """Names that an assignment to ``target`` writes."""
    return [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
