"""Step 6: the host function, which keeps the conditions and calls the compiled sub-networks."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import networkx as nx

from replicata.methods.efficient.dycl.program import ExitNode, Node, Program, TensorNode, successors

if TYPE_CHECKING:
    from replicata.methods.efficient.dycl.compile import SubNetwork

INDENT = "    "


def host_source(program: Program, sub_networks: Mapping[Node, SubNetwork]) -> tuple[str, dict[str, Any]]:
    """Source of ``host(*inputs)``, and the names that it sees."""
    return _Writer(program, sub_networks).function()


class _Writer:
    """Writes an acyclic graph as nested ifs.

    A node with one way to it stands inside the branch that leads there; one where ways meet stands after the node
    that dominates it (cf. Ramsey, Beyond Relooper, ICFP 2022). A way that has to pass by code that is not on it (a
    break, out of more than one level) says in ``at`` where it goes, and that code runs only for those who go there.
    """

    def __init__(self, program: Program, sub_networks: Mapping[Node, SubNetwork]) -> None:
        self.program, self.sub_networks = program, sub_networks
        self.scope: dict[str, Any] = dict(program.namespace) | {"self": program.model}
        self.number = {node: number for number, node in enumerate(program.nodes)}
        # Returns are written wherever control ends, so no ways meet there.
        inner = nx.DiGraph()
        inner.add_nodes_from(node for node in program.nodes if not isinstance(node, ExitNode))
        inner.add_edges_from(
            (node, target) for node in inner.nodes for target in successors(node) if target in inner.nodes
        )
        entry = program.nodes[0]
        above = nx.immediate_dominators(inner, entry) if entry in inner else {}
        # A condition whose branches are one and the same node is a second way to it.
        ways = {node: sum(successors(other).count(node) for other in inner.predecessors(node)) for node in inner.nodes}
        self.meeting: dict[Node, list[Node]] = {node: [] for node in program.nodes}
        for node in inner.nodes:  # in topological order
            if node is not entry and ways[node] > 1:
                self.meeting[above[node]].append(node)
        self.joins = {node for nodes in self.meeting.values() for node in nodes}
        self.passed_by: set[Node] = set()
        self.reserved = self._free_name("at")

    def function(self) -> tuple[str, dict[str, Any]]:
        entry = self.program.nodes[0]
        self.place(entry, ())  # finds what is passed by; the text is that of the second pass
        lines = [f"def host({', '.join(self.program.parameters)}):", *_indented(self.place(entry, ()))]
        return "\n".join(lines) + "\n", self.scope

    def place(self, node: Node, following: tuple[Node, ...]) -> list[str]:
        """Lines of a node and all that it dominates; ``following`` are the joins that come after them."""
        meeting = tuple(self.meeting[node])
        lines = self.code(node, (*meeting, *following))
        for position, join in enumerate(meeting):
            placed = self.place(join, (*meeting[position + 1 :], *following))
            if join in self.passed_by:
                placed = [f"if {self.reserved} == {self.number[join]}:", *_indented(placed)]
            lines += placed
        return lines

    def code(self, node: Node, following: tuple[Node, ...]) -> list[str]:
        if isinstance(node, ExitNode):
            return [f"return {ast.unparse(node.value)}"]
        if isinstance(node, TensorNode):
            assert node.next is not None
            return [*self.call(node), *self.go(node.next, following)]
        assert node.then is not None
        assert node.otherwise is not None
        then, otherwise = self.go(node.then, following), self.go(node.otherwise, following)
        test = ast.unparse(node.test)
        if not then:
            return [f"if not ({test}):", *_indented(otherwise)] if otherwise else []
        lines = [f"if {test}:", *_indented(then)]
        if then[-1].startswith("return"):
            return lines + otherwise
        return [*lines, "else:", *_indented(otherwise)] if otherwise else lines

    def go(self, target: Node, following: tuple[Node, ...]) -> list[str]:
        """Lines that bring control to a node: the node itself, or nothing where it comes next anyway."""
        if target not in self.joins:
            return self.place(target, following)
        skipped = following[: following.index(target)]
        self.passed_by.update(skipped)
        if skipped or target in self.passed_by:
            return [f"{self.reserved} = {self.number[target]}"]
        return []

    def call(self, node: TensorNode) -> list[str]:
        """All that the node writes, in one assignment: what is read on its right is not yet overwritten."""
        found = self.sub_networks[node]
        targets, values = [], []
        if found.executable is not None:
            name = self._free_name(f"sub_network_{self.number[node]}")
            self.scope[name] = found.executable
            targets.append(", ".join(found.outputs))
            values.append(f"{name}({', '.join(found.inputs)})")
        for target, source in found.copies.items():
            if target != source:
                targets.append(target)
                values.append(source)
        for target, value in found.constants.items():
            name = self._free_name(f"constant_{self.number[node]}_{target}")
            self.scope[name] = value
            targets.append(target)
            values.append(name)
        if len(targets) <= 1:
            return [f"{targets[0]} = {values[0]}"] if targets else []
        targets = [f"({target})" if ", " in target else target for target in targets]
        return [f"{', '.join(targets)} = {', '.join(values)}"]

    def _free_name(self, name: str) -> str:
        while name in self.program.variables or name in self.program.namespace:
            name += "_"
        return name


def _indented(lines: list[str]) -> list[str]:
    return [INDENT + line for line in lines]
