"""Step 1, the rewriting: loops are unrolled and constants propagated, and what is left of the program becomes a graph.

Values that do not depend on the input are known while the program is read: numbers, texts, the model's attributes,
its sub-modules. A value is folded where it is used; its assignment is written down as well, for variables that end
up with one value on one path and another on another, and dies in step 3 where nobody reads it.
"""

from __future__ import annotations

import ast
import copy
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn

from replicata.methods.efficient.dycl.program import (
    ExitNode,
    LogicNode,
    Node,
    Program,
    ProgramError,
    TensorNode,
    names_of,
)

# Calls that are made while the program is read, if all their arguments are known.
FOLDED = frozenset(
    {
        *("abs", "bool", "enumerate", "float", "getattr", "hasattr", "int", "isinstance", "len", "list", "max", "min"),
        *("range", "reversed", "round", "str", "sum", "tuple", "zip"),
    }
)
LITERALS = (bool, int, float, complex, str, bytes, type(None), EllipsisType)
PURE = (
    ast.Constant,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Slice,
    ast.Tuple,
    ast.List,
    ast.BinOp,
    ast.UnaryOp,
    ast.BoolOp,
    ast.Compare,
    ast.IfExp,
    ast.Call,
    ast.keyword,
    ast.operator,
    ast.unaryop,
    ast.boolop,
    ast.cmpop,
    ast.expr_context,
)
REFUSED = {
    ast.NamedExpr: "an assignment inside an expression",
    ast.Lambda: "a lambda",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a comprehension",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Starred: "a starred expression",
}


def rewrite(model: nn.Module) -> Program:
    """The graph of ``model.forward``, with inputs and outputs of its sub-networks.

    Raises:
        ProgramError: names the line and what in it is outside the subset.
    """
    function = inspect.unwrap(type(model).forward)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(tree, ast.FunctionDef):
        raise ProgramError(f"{type(model).__name__}.forward is not a plain function")
    program = _Rewriter(model, tree, function.__globals__ | inspect.getclosurevars(function).nonlocals).program()
    program.analyse()
    return program


@dataclass
class Flow:
    """Where control has come to: edges that lead nowhere yet, and what is known there.

    Attributes:
        ends: Each a node and the attribute of it that will hold what follows; none: control never comes here.
        known: Values of the variables that do not depend on the input.
    """

    ends: list[tuple[Node, str]]
    known: dict[str, Any]


@dataclass
class Loop:
    """Where control leaves the rounds of the loop that is being unrolled."""

    breaks: list[Flow] = field(default_factory=list)
    continues: list[Flow] = field(default_factory=list)


class _Rewriter:
    def __init__(self, model: nn.Module, function: ast.FunctionDef, namespace: dict[str, Any]) -> None:
        arguments = function.args
        if arguments.vararg or arguments.kwarg or arguments.kwonlyargs or arguments.defaults:
            raise ProgramError(f"{type(model).__name__}.forward may take plain arguments only, all of them tensors")
        self.model, self.body, self.namespace = model, function.body, namespace
        self.me, *parameters = [argument.arg for argument in arguments.args]
        if self.me != "self":
            raise ProgramError(f"the first argument of {type(model).__name__}.forward must be called self")
        self.parameters = tuple(parameters)
        self.variables = {*parameters, *(name for node in ast.walk(function) for name in _written(node))}
        self.references = {
            id(part): name
            for parts in (model.named_modules(remove_duplicate=False), model.named_parameters(), model.named_buffers())
            for name, part in parts
        }
        self.nodes: list[Node] = []
        self.loops: list[Loop] = []
        self.numbers = count()

    def program(self) -> Program:
        entry = TensorNode()
        self.nodes.append(entry)
        end = self.block(self.body, Flow([(entry, "next")], {}))
        if end.ends:
            self.connect(end, ExitNode(ast.Constant(None)))
        return Program(self.model, self.namespace, self.parameters, frozenset(self.variables), self.nodes)

    # Statements ------------------------------------------------------------------------------

    def block(self, statements: Iterable[ast.stmt], flow: Flow) -> Flow:
        for statement in statements:
            if not flow.ends:
                break
            flow = self.statement(statement, flow)
        return flow

    def statement(self, node: ast.stmt, flow: Flow) -> Flow:  # noqa: PLR0912  one case a kind
        match node:
            case ast.Assign(targets=targets, value=value):
                self.assign(targets[0], value, flow)
                for target in targets[1:]:
                    self.assign(target, _load(targets[0]), flow)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.assign(target, value, flow)
            case ast.AugAssign(target=target, op=operation, value=value):
                # Out of place: the same, unless another variable is an alias of the tensor.
                self.assign(target, ast.BinOp(_load(target), operation, value), flow)
            case ast.Expr(value=value):
                self.fold(value, flow)  # nobody reads the value; in-place calls are refused on the way
            case ast.Pass():
                pass
            case ast.If():
                return self.branch(node, flow)
            case ast.For():
                return self.unroll(node, flow)
            case ast.Return(value=value):
                returned = self.hoist_result(self.fold(value or ast.Constant(None), flow), flow)
                self.connect(flow, ExitNode(returned))
                return Flow([], {})
            case ast.Break():
                self.loops[-1].breaks.append(flow)
                return Flow([], {})
            case ast.Continue():
                self.loops[-1].continues.append(flow)
                return Flow([], {})
            case ast.While():
                raise self.error(node, "while: write a for loop with a constant cap and a break")
            case _:
                raise self.error(node, f"{type(node).__name__.lower()} is not supported")
        return flow

    def assign(self, target: ast.expr, value: ast.expr, flow: Flow) -> None:
        if not isinstance(target, ast.Name | ast.Tuple):
            raise self.error(target, f"assignment to {ast.unparse(target)}: only variables are written")
        known, found = self.known(value, flow)
        if known:
            self.bind(target, found, flow)
            return
        folded = self.fold(value, flow)
        for name in names_of(target):
            flow.known.pop(name, None)
        self.emit(target, folded, flow)

    def bind(self, target: ast.expr, value: Any, flow: Flow) -> None:
        """A variable gets a value that does not depend on the input."""
        if isinstance(target, ast.Tuple):
            parts = list(value)
            if len(parts) != len(target.elts):
                raise self.error(target, f"{len(parts)} values for {ast.unparse(target)}")
            for name, part in zip(target.elts, parts, strict=True):
                self.bind(name, part, flow)
            return
        assert isinstance(target, ast.Name)
        flow.known[target.id] = value
        reference = self.reference(value)
        if reference is not None:
            self.emit(target, reference, flow)

    def branch(self, node: ast.If, flow: Flow) -> Flow:
        known, value = self.known(node.test, flow)
        if known:
            return self.block(node.body if value else node.orelse, flow)
        test = self.fold(node.test, flow, condition=True)
        logic = LogicNode(self.hoist_calls(test, flow))
        self.connect(flow, logic)
        then = self.block(node.body, Flow([(logic, "then")], dict(flow.known)))
        otherwise = self.block(node.orelse, Flow([(logic, "otherwise")], dict(flow.known)))
        return join([then, otherwise])

    def unroll(self, node: ast.For, flow: Flow) -> Flow:
        known, rounds = self.known(node.iter, flow)
        if not known:
            raise self.error(node, f"the loop over {ast.unparse(node.iter)} depends on the input")
        self.loops.append(Loop())
        for value in rounds:
            self.bind(node.target, value, flow)
            flow = join([self.block(node.body, flow), *self.loops[-1].continues])
            self.loops[-1].continues.clear()
            if not flow.ends:
                break
        left = self.loops.pop().breaks
        return join([self.block(node.orelse, flow), *left])

    # Graph -----------------------------------------------------------------------------------

    def emit(self, target: ast.expr, value: ast.expr, flow: Flow) -> None:
        """Add an assignment to the sub-network that control is in, or begin one."""
        ends = flow.ends
        if len(ends) == 1 and isinstance(ends[0][0], TensorNode):
            node = ends[0][0]
        else:
            node = TensorNode()
            self.connect(flow, node)
            flow.ends = [(node, "next")]
        statement = ast.Assign(targets=[_store(target)], value=value)
        node.statements.append(ast.fix_missing_locations(statement))

    def connect(self, flow: Flow, node: Node) -> None:
        for end, attribute in flow.ends:
            setattr(end, attribute, node)
        self.nodes.append(node)  # after all that lead to it: the order stays topological

    def temporary(self, value: ast.expr, flow: Flow) -> ast.Name:
        """Compute an expression in the current sub-network, for the host to use."""
        name = next(name for number in self.numbers if (name := f"t{number}") not in self.variables)
        self.variables.add(name)
        target = ast.Name(name, ast.Store())
        self.emit(target, value, flow)
        return ast.Name(name, ast.Load())

    def hoist_calls(self, test: ast.expr, flow: Flow) -> ast.expr:
        """Leave to a condition the comparisons; what its sides are computed from goes into the sub-network before."""
        if isinstance(test, ast.Compare):
            sides = [self.hoist_calls(side, flow) for side in (test.left, *test.comparators)]
            return ast.Compare(sides[0], test.ops, sides[1:])
        if isinstance(test, ast.BoolOp):
            return ast.BoolOp(test.op, [self.hoist_calls(value, flow) for value in test.values])
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            return ast.UnaryOp(test.op, self.hoist_calls(test.operand, flow))
        return self.hoist_result(test, flow)

    def hoist_result(self, value: ast.expr, flow: Flow) -> ast.expr:
        """A variable, constant or attribute stays; of a tuple each element; anything else is computed before."""
        if isinstance(value, ast.Tuple):
            return ast.Tuple([self.hoist_result(element, flow) for element in value.elts], ast.Load())
        simple = (ast.Name, ast.Constant, ast.Attribute, ast.UnaryOp, ast.expr_context, ast.unaryop)
        if all(isinstance(node, simple) for node in ast.walk(value)):
            return value
        return self.temporary(value, flow)

    # Expressions -----------------------------------------------------------------------------

    def known(self, expression: ast.expr, flow: Flow) -> tuple[bool, Any]:
        """Whether an expression does not depend on the input, and its value. Tensors count as unknown."""
        parts = expression.elts if isinstance(expression, ast.Tuple) else [expression]
        if any(isinstance(part, ast.Slice) for part in parts):  # of a subscript that is folded part by part
            return False, None
        for node in ast.walk(expression):
            if not isinstance(node, PURE):
                return False, None
            if isinstance(node, ast.Name) and node.id in self.variables and node.id not in flow.known:
                return False, None
            if isinstance(node, ast.Call) and not self.folded_call(node):
                return False, None
        code = compile(ast.fix_missing_locations(ast.Expression(copy.deepcopy(expression))), "<constant>", "eval")
        try:
            value = eval(code, self.namespace, {"self": self.model, **flow.known})
        except Exception as error:
            message = f"{ast.unparse(expression)} cannot be computed: {type(error).__name__}: {error}"
            raise self.error(expression, message) from error
        return not isinstance(value, Tensor), value

    def folded_call(self, node: ast.Call) -> bool:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        return name in FOLDED and name not in self.variables and name not in self.namespace

    def reference(self, value: Any) -> ast.expr | None:
        """The expression that stands for a known value: a literal, or a part of the model by its path."""
        if isinstance(value, LITERALS):
            return ast.parse(repr(value), mode="eval").body if _finite(value) else None
        if type(value) in (tuple, list):
            parts = [self.reference(part) for part in value]
            if any(part is None for part in parts):
                return None
            return (ast.Tuple if type(value) is tuple else ast.List)(parts, ast.Load())  # type: ignore[arg-type]
        if isinstance(value, nn.Module | Tensor) and id(value) in self.references:
            return self.path(self.references[id(value)])
        if isinstance(value, torch.dtype):
            return ast.parse(repr(value), mode="eval").body if self.namespace.get("torch") is torch else None
        return None

    def path(self, name: str) -> ast.expr:
        expression: ast.expr = ast.Name("self", ast.Load())
        part: Any = self.model
        for word in name.split(".") if name else ():
            if isinstance(part, nn.ModuleList | nn.Sequential | nn.ParameterList) and word.isdigit():
                expression, part = ast.Subscript(expression, ast.Constant(int(word)), ast.Load()), part[int(word)]
            elif isinstance(part, nn.ModuleDict | nn.ParameterDict):
                expression, part = ast.Subscript(expression, ast.Constant(word), ast.Load()), part[word]
            else:
                expression, part = ast.Attribute(expression, word, ast.Load()), getattr(part, word)
        return expression

    def fold(self, expression: ast.expr, flow: Flow, *, condition: bool = False) -> ast.expr:
        """The expression with everything known in it replaced by its value."""
        known, value = self.known(expression, flow)
        if known and (reference := self.reference(value)) is not None:
            return reference
        self.refuse(expression, condition)
        if isinstance(expression, ast.Name):
            if expression.id in flow.known:
                name = type(flow.known[expression.id]).__name__
                raise self.error(expression, f"{expression.id} is a {name}, and no part of the model or literal")
            return ast.Name(expression.id, ast.Load())
        folded = copy.copy(expression)
        logical = condition and isinstance(expression, ast.BoolOp | ast.UnaryOp)
        for name, child in ast.iter_fields(expression):
            if isinstance(child, ast.expr):
                setattr(folded, name, self.part(child, flow, logical))
            elif isinstance(child, list):
                setattr(folded, name, [self.part(item, flow, logical) for item in child])
        return folded

    def part(self, child: Any, flow: Flow, condition: bool) -> Any:
        if isinstance(child, ast.keyword):
            return ast.keyword(child.arg, self.fold(child.value, flow))
        if isinstance(child, ast.expr) and not self.foreign(child):
            return self.fold(child, flow, condition=condition)
        return child

    def foreign(self, expression: ast.expr) -> bool:
        """Whether it is a global name: a module or function, which the generated code sees as well."""
        return isinstance(expression, ast.Name) and expression.id not in self.variables and expression.id != "self"

    def refuse(self, node: ast.expr, condition: bool) -> None:
        for kind, what in REFUSED.items():
            if isinstance(node, kind):
                raise self.error(node, f"{what} is not supported")
        if isinstance(node, ast.IfExp):
            raise self.error(node, "a conditional expression that depends on the input: write an if statement")
        if isinstance(node, ast.BoolOp) and not condition:
            raise self.error(node, "and, or outside of a condition depend on the input: write an if statement")
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            if (name.endswith("_") and not name.endswith("__")) or name in ("append", "extend", "update", "pop"):
                raise self.error(node, f"{name}() changes its object in place: assign a new one")

    def error(self, node: ast.AST, message: str) -> ProgramError:
        return ProgramError(f"{type(self.model).__name__}.forward line {getattr(node, 'lineno', '?')}: {message}")


def join(flows: Sequence[Flow]) -> Flow:
    """Control comes from any of them: known is what all of them agree on."""
    alive = [flow for flow in flows if flow.ends]
    if not alive:
        return Flow([], {})
    first, *others = alive
    known = {
        name: value
        for name, value in first.known.items()
        if all(name in other.known and _same(value, other.known[name]) for other in others)
    }
    return Flow([end for flow in alive for end in flow.ends], known)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and isinstance(one, LITERALS) and one == other)


def _finite(value: Any) -> bool:
    return not isinstance(value, float | complex) or value - value == 0


def _written(node: ast.AST) -> list[str]:
    return [node.id] if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else []


def _store(target: ast.expr) -> ast.expr:
    stored = copy.deepcopy(target)
    for node in ast.walk(stored):
        if isinstance(node, ast.Name | ast.Tuple):
            node.ctx = ast.Store()
    return stored


def _load(target: ast.expr) -> ast.expr:
    loaded = copy.deepcopy(target)
    for node in ast.walk(loaded):
        if isinstance(node, ast.Name | ast.Tuple | ast.Attribute | ast.Subscript):
            node.ctx = ast.Load()
    return loaded
