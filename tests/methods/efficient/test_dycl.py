"""Fidelity checks of DyCL: what only the right compiler satisfies."""

from __future__ import annotations

import ast
import linecache
import os
import random
import signal
import textwrap
from collections.abc import Sequence
from functools import partial
from itertools import count, product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from replicata.data.composite import Composite
from replicata.data.sequence.transduction import Transduction
from replicata.data.vision.images import Digits
from replicata.methods.efficient.dycl import Decisions, ExitTraining, GateTraining, Latency, Seq2SeqTraining
from replicata.methods.efficient.dycl.backends import torchscript, torchscript_blocked
from replicata.methods.efficient.dycl.compile import Compiled, dycl
from replicata.methods.efficient.dycl.compilers import COMPILERS, build
from replicata.methods.efficient.dycl.isolate import Rejected, isolated
from replicata.methods.efficient.dycl.method import distance
from replicata.methods.efficient.dycl.program import ProgramError
from replicata.methods.efficient.dycl.rewrite import rewrite
from replicata.models.early_exit import EarlyExitCNN
from replicata.models.gated_resnet import BlockDrop, GatedResNet, RecurrentSkipNet, SkipNet
from replicata.models.gru_seq2seq import GRUSeq2Seq
from replicata.run.compose import compose
from replicata.run.execute import build as build_run
from replicata.run.identity import stage_config
from replicata.streams import Streams

FILES = count()


def module(body: str, **attributes: Any) -> nn.Module:
    """A module whose forward is the given text; ``getsource`` finds it as if it stood in a file."""
    body = textwrap.dedent(body)
    source = "class Given(nn.Module):\n" + textwrap.indent(body, "    ")
    name = f"<given {next(FILES)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"nn": nn, "torch": torch, "F": F, "Tensor": Tensor, "__name__": __name__}
    exec(compile(source, name, "exec"), scope)
    made = scope["Given"]()
    for key, value in attributes.items():
        setattr(made, key, value)
    return made.eval()


def as_it_is(piece: nn.Module, inputs: Sequence[Tensor]) -> Any:
    """A back end that compiles nothing: every bit must be the same."""
    return piece


def plain(body: str, **attributes: Any) -> Compiled:
    return dycl(module(body, **attributes), [torch.rand(4)], backend=as_it_is)


# 1. Rewriting -------------------------------------------------------------------------------


def test_without_conditions_there_is_one_sub_network_and_one_call() -> None:
    compiled = plain(
        """
        def forward(self, x):
            for i in range(3):
                x = x * (i + 1)
            return x
        """
    )
    assert len(compiled.program.sub_networks) == len(compiled.executables) == 1
    assert not compiled.program.conditions
    assert compiled.source == "def host(x):\n    x = sub_network_0(x)\n    return x\n"
    assert torch.equal(compiled(torch.ones(4)), torch.full((4,), 6.0))


@pytest.mark.parametrize("n", [1, 2, 5])
def test_sequential_ifs_without_else(n: int) -> None:
    compiled = plain(
        """
        def forward(self, x):
            for i in range(self.n):
                if x[i] > 0.5:
                    x = x * 0.9
            return x + 1
        """,
        n=min(n, 4),
    )
    n = min(n, 4)
    assert len(compiled.program.conditions) == n
    # What a condition looks at is computed before it: n times, then n branches, and the end.
    assert len(compiled.program.sub_networks) == 2 * n + 1


def test_constants_decide_their_branches_and_loops_are_unrolled() -> None:
    layers = nn.ModuleList([nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 4)])
    layers[1].no_output = True  # type: ignore[assignment]
    model = module(
        """
        def forward(self, x):
            outputs = 0
            for i, layer in enumerate(self.layers):
                x = layer(x)
                if getattr(layer, "no_output", False):
                    continue
                else:
                    outputs += 1
                if x.sum() > 0:
                    x = -x
            if self.training or outputs != 2:
                return None
            return x
        """,
        layers=layers,
    )
    compiled = dycl(model, [torch.rand(4)], backend=as_it_is)
    tree = ast.parse(compiled.source)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.For | ast.While)]
    assert len([node for node in ast.walk(tree) if isinstance(node, ast.If)]) == len(compiled.program.conditions) == 2
    assert "no_output" not in compiled.source
    assert "training" not in compiled.source
    for x in torch.randn(20, 4):
        assert torch.equal(compiled(x), model(x))


def test_a_constant_that_differs_between_paths_is_a_variable_afterwards() -> None:
    compiled = plain(
        """
        def forward(self, x):
            kind = 0
            if x[0] > 0.5:
                kind = 1
            for i in range(4):
                if x[1] > i / 4:
                    break
            return kind, i
        """
    )
    for first, second in product([0.2, 0.8], [0.1, 0.3, 0.0]):
        x = torch.tensor([first, second, 0.0, 0.0])
        assert compiled(x) == compiled.program.model(x)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("while x[0] > 0:\n    x = x - 1", "line 2: while: write a for loop"),
        ("x[0] = 1", "line 2: assignment to x"),
        ("y = [v for v in x]", "line 2: a comprehension"),
        ("for row in x:\n    pass", "the loop over x depends on the input"),
        ("y = x if x[0] > 0 else -x", "a conditional expression"),
        ("x.relu_()", "relu_.. changes its object in place"),
        ("y = []\ny.append(x)", "append.. changes its object in place"),
        ("y = x[0] > 0 or x", "and, or outside of a condition"),
        ("with torch.no_grad():\n    pass", "with is not supported"),
        ("if x[0] > 0:\n    n = 1\nelse:\n    n = 2\nx = x * n", "n has another shape or value on every path"),
        ("x = self.hidden(x)", "looks at the values of a tensor"),
        ("y = (x, x)\nif x[0] > 0:\n    x = y[0]", "y is a tuple: sub-networks exchange tensors only"),
    ],
)
def test_what_is_outside_the_subset_is_refused_with_its_place(body: str, message: str) -> None:
    hidden = module("def forward(self, x):\n    return x + 1 if x.sum() > 0 else x")
    with pytest.raises(ProgramError, match=message):
        plain(f"def forward(self, x):\n{textwrap.indent(body, '    ')}\n    return x", hidden=hidden)


# 2. and 6. Every path -----------------------------------------------------------------------


class FourGates(nn.Module):
    """Gates that the input sets directly, with state that lives across the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()) for _ in range(4))

    def forward(self, x: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        previous = x
        mask = torch.zeros(1)
        for i, block in enumerate(self.blocks):
            if gates[i] > 0.5:
                previous, x = x, x + block(x)
                mask = mask + 2**i
            else:
                x = 0.5 * (x + previous)
        return x, previous, mask


@torch.no_grad()
@pytest.mark.parametrize("optimise", [True, False])
def test_every_path_of_four_gates_is_exact(optimise: bool) -> None:
    torch.manual_seed(0)
    model, x = FourGates().eval(), torch.randn(1, 4)
    compiled = dycl(model, [x, torch.zeros(4)], backend=as_it_is, optimise=optimise)
    scripted = dycl(model, [x, torch.zeros(4)], optimise=optimise)
    for number, bits in enumerate(product([0.0, 1.0], repeat=4)):
        gates = torch.tensor(bits[::-1])
        expected = model(x, gates)
        assert int(expected[2]) == number
        for found in (compiled(x, gates), compiled.program.interpret(x, gates)[0]):
            assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
        for one, other in zip(expected, scripted(x, gates), strict=True):
            torch.testing.assert_close(one, other)


def test_early_return_in_a_branch_and_nested_ifs() -> None:
    compiled = plain(
        """
        def forward(self, x):
            y = x.sum()
            if x[0] > 0.5:
                if x[1] > 0.5:
                    return y, x
                y = y + 1
            elif x[1] > 0.5:
                return x
            return y
        """
    )
    for bits in product([0.0, 1.0], repeat=2):
        x = torch.tensor([*bits, 0.0, 0.0])
        expected, found = compiled.program.model(x), compiled(x)
        assert type(expected) is type(found)
        assert str(expected) == str(found)


def random_program(seed: int) -> str:
    """Assignments, conditions on four input bits, loops, break, continue, else, return, all nested."""
    dice = random.Random(seed)
    simple = [
        *("a = a * 2 + b", "b = b + 1", "a = b", "b = torch.tensor(3.0)", "a, b = b, a", "c = c + a", "n = 1"),
        *("c = x.sum() + a", "b = b + n"),
    ]
    tests = ["x[0] > 0.5", "x[1] > 0.5", "not x[2] > 0.5", "x[3] > 0.5 and b > 2"]

    def block(depth: int, loop: bool) -> list[str]:
        lines: list[str] = []
        for _ in range(dice.randint(1, 3)):
            kind = dice.choice(["simple", "if", "if", "for"]) if depth else dice.choice(["simple", "leave"])
            if kind == "simple":
                lines.append(dice.choice(simple))
            elif kind == "leave":
                lines.append(
                    dice.choice(["break", "continue", "break", "return a, b, c"] if loop else ["return b, a, c"])
                )
            else:
                head = f"if {dice.choice(tests)}:" if kind == "if" else f"for i in range({dice.randint(0, 2)}):"
                lines += [head, *indented(block(depth - 1, loop or kind == "for"))]
                if dice.random() < 0.5:
                    lines += ["else:", *indented(block(depth - 1, loop))]
        return lines

    lines = ["a = x[0] * 0 + 1", "b = torch.tensor(2.0)", "c = b", "n = 1", *block(4, False), "return a, b, c"]
    return "\n".join(["def forward(self, x):", *indented(lines)])


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


@torch.no_grad()
@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=20, deadline=None)
def test_random_programs_are_the_same_on_every_path(seed: int, optimise: bool) -> None:
    model = module(random_program(seed))
    compiled = dycl(model, [torch.zeros(4)], backend=as_it_is, optimise=optimise)
    for bits in product([0.0, 1.0], repeat=4):
        x = torch.tensor(bits)
        expected = [float(value) for value in model(x)]
        assert [float(value) for value in compiled(x)] == expected
        assert [float(value) for value in compiled.program.interpret(x)[0]] == expected


def test_a_break_out_of_two_levels_passes_by_the_code_between() -> None:
    compiled = plain(
        """
        def forward(self, x):
            a = x[3] * 0
            for i in range(2):
                if x[0] > 0.5:
                    if x[1] > 0.5:
                        break
                    a = a + 1
                a = a + 10
            return a + 100
        """
    )
    assert "at = " in compiled.source
    for bits in product([0.0, 1.0], repeat=2):
        x = torch.tensor([*bits, 0.0, 0.0])
        assert torch.equal(compiled(x), compiled.program.model(x))


# 3. Interfaces ------------------------------------------------------------------------------


def test_inputs_and_outputs_of_a_hand_written_example() -> None:
    program = rewrite(
        module(
            """
            def forward(self, x):
                a = x + 1
                b = a * 2
                dead = b * 3
                if a.sum() > 0:
                    c = a + b
                    dead = c
                else:
                    c = x
                return c
            """
        )
    )
    first, then, otherwise = program.sub_networks
    assert (first.inputs, first.outputs) == (("x",), ("a", "b", "t0"))  # t0 is what the condition looks at
    assert (then.inputs, then.outputs) == (("a", "b"), ("c",))
    assert (otherwise.inputs, otherwise.outputs) == (("x",), ("c",))
    assert not any("dead" in ast.unparse(line) for node in program.sub_networks for line in node.statements)


# 4. Graph optimisation ----------------------------------------------------------------------


MOVED = """
def forward(self, x):
    y = self.dropout(x)
    count = torch.tensor(3)
    z = x * 2
    if z.sum() > 0:
        z = y
        count = torch.zeros(2)
    return y, z, count
"""


def test_copies_and_constants_go_to_the_host() -> None:
    model = module(MOVED, dropout=nn.Dropout(0.5))
    moved, kept = (dycl(model, [torch.rand(4)], optimise=optimise) for optimise in (True, False))
    first, second = moved.sub_networks.values()
    assert (first.copies, list(first.constants)) == ({"y": "x"}, ["count"])  # S1 behind an identity, S2
    assert first.outputs == ("z", "t0")
    assert second.executable is None  # nothing is left: it disappears
    assert (moved.outputs, kept.outputs) == (2, 6)
    for x in torch.randn(10, 4):
        for compiled in (moved, kept):
            assert all(torch.equal(one, other) for one, other in zip(model(x), compiled(x), strict=True))


def test_what_is_drawn_by_chance_is_no_constant() -> None:
    body = (
        "def forward(self, x):\n    noise = torch.rand(4)\n    if x[0] > 0:\n        x = x + noise\n    return x, noise"
    )
    compiled = dycl(module(body), [torch.rand(4)])
    first = compiled.executables[0]
    assert "noise" in first.outputs
    assert not torch.equal(compiled(torch.ones(4))[1], compiled(torch.ones(4))[1])


@torch.inference_mode()
def test_recurrent_layers_are_no_decisions() -> None:
    words = subjects()[5][0]
    assert dycl(words, [torch.randint(3, 9, (1, 5))]).executables


def test_swapped_variables_are_read_before_they_are_written() -> None:
    compiled = plain("def forward(self, x):\n    y = x + 1\n    if x[0] > 0:\n        x, y = y, x\n    return x, y")
    x = torch.ones(4)
    assert [float(value[0]) for value in compiled(x)] == [2.0, 1.0]


# 5. Compilation -----------------------------------------------------------------------------


def subjects() -> list[tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    images = torch.rand(30, 1, 8, 8)
    nets = [
        EarlyExitCNN([1, 8, 8], 4, [4, 6]),
        *(kind([1, 8, 8], 4, [4, 6], 2) for kind in (SkipNet, RecurrentSkipNet, BlockDrop, GatedResNet)),
    ]
    for net in nets:
        net.eval().calibrate(images)  # type: ignore[operator]
    torch.manual_seed(6)
    words = GRUSeq2Seq(9, 1, 2, max_length=4, embedding=4, hidden=8).eval()
    for parameter in words.parameters():
        parameter.data *= 4  # so that sources differ in when they end
    return [*((net, images) for net in nets), (words, torch.randint(3, 9, (30, 5)))]


@torch.no_grad()
@pytest.mark.parametrize("number", range(6))
def test_compiled_subjects_decide_as_the_originals(number: int) -> None:
    model, inputs = subjects()[number]
    compiled = dycl(model, [inputs[:1]])
    kept = dycl(model, [inputs[:1]], optimise=False)
    for found in compiled.executables:
        kinds = {node.kind() for node in found.executable.graph.nodes()}  # type: ignore[union-attr]
        assert not kinds & {"prim::If", "prim::Loop"}
    assert compiled.outputs < kept.outputs
    paths = set()
    for x in inputs.split(1):
        expected, path = model(x)
        paths.add(int(path))
        for program in (compiled, kept):
            output, found_path = program(x)
            assert int(found_path) == int(path)
            torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-4)
    static = type(model) is GatedResNet
    assert (len(paths) == 1) == static
    assert bool(compiled.program.conditions) != static


def test_a_sub_network_owns_what_it_names_and_no_more() -> None:
    model = subjects()[1][0]
    program = rewrite(model)
    named = {name: part for name, part in model.named_modules() if name}
    owned = [program.parts(node.statements) for node in program.sub_networks]
    assert [named["gates.0"] in parts for parts in owned].count(True) == 1
    assert [parts for parts in owned if named["blocks.1"] in parts] == [[named["blocks.1"]]]
    words = rewrite(subjects()[5][0])
    assert words.model in words.parts(words.sub_networks[0].statements)  # it calls a method of the model


def test_both_branches_are_compiled_whatever_the_example_does() -> None:
    examples = torch.ones(4), -torch.ones(4)
    body = "def forward(self, x):\n    if x[0] > 0:\n        x = x + 1\n    else:\n        x = x - 1\n    return x"
    for example in examples:
        compiled = dycl(module(body), [example])
        assert [float(compiled(x)[0]) for x in examples] == [2.0, -2.0]


@torch.no_grad()
def test_a_naive_trace_freezes_the_path_and_the_other_compilers_do_not() -> None:
    model, images = subjects()[1]
    frozen = build("naive_trace", model, [images[:1]], torchscript)
    paths = [int(model(x)[1]) for x in images.split(1)]
    assert len(set(paths)) > 1
    assert {int(frozen(x)[1]) for x in images.split(1)} == {paths[0]}
    for compiler in ("dycl", "script", "eager"):
        program = build(compiler, model, [images[:1]], torchscript_blocked)
        assert [int(program(x)[1]) for x in images.split(1)] == paths


def test_a_condition_at_its_threshold_has_no_margin() -> None:
    program = rewrite(module("def forward(self, x):\n    if x[0] > 0.5 or x[1] > 3:\n        x = x + 1\n    return x"))
    assert program.interpret(torch.tensor([0.5, 0.0, 0.0, 0.0]))[1] == 0
    assert program.interpret(torch.tensor([1.0, 2.75, 0.0, 0.0]))[1] == 0.25


# Crashes are results ------------------------------------------------------------------------


def test_an_isolated_function_returns_raises_or_dies_without_harm() -> None:
    assert isolated(lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]
    with pytest.raises(Rejected, match="ValueError: no"):
        isolated(lambda: (_ for _ in ()).throw(ValueError("no")))
    with pytest.raises(Rejected, match="SIGKILL"):
        isolated(lambda: os.kill(os.getpid(), signal.SIGKILL))


# What is measured ---------------------------------------------------------------------------


class Stage:
    """A finished subject."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def module(self) -> nn.Module:
        return self.model


def measured(fit: Any, method: Any, subject: nn.Module) -> Any:
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10}
    images = Digits(root="", cache="", n_train=30, n_val=10, n_test=30, **facts)
    method.stages = {"net": Stage(subject)}
    fit(method, Composite({"images": images}), max_epochs=1)
    return method


def digits_net(kind: type[GatedResNet]) -> GatedResNet:
    torch.manual_seed(0)
    net = kind([1, 8, 8], 10, [4], 2).eval()
    images = Digits(root="", cache="", n_val=10, n_test=30, in_shape=[1, 8, 8], in_features=64, num_classes=10)
    net.calibrate(images.load()["train"]["x"][:200])
    return net


def test_decisions_of_a_gated_net_by_compiler(fit: Any) -> None:
    found = {}
    for compiler in ("dycl", "naive_trace"):
        method = Decisions(compiler=compiler, subjects={"net": "images.x"}, n_inputs=30)
        found[compiler] = measured(fit, method, digits_net(SkipNet)).results[0]
    assert found["dycl"]["test/eta"] == found["dycl"]["test/eta_path"] == 0
    assert found["dycl"]["test/delta"] < -4
    assert found["naive_trace"]["test/eta_path"] > 0.3
    assert found["naive_trace"]["test/eta"] >= found["naive_trace"]["test/eta_path"]
    assert found["dycl"]["cost/sub_networks"] == 5


def test_a_rejected_program_is_a_row_with_its_reason(fit: Any) -> None:
    method = Decisions(compiler="script", subjects={"net": "images.x"}, n_inputs=5)
    net = RecurrentSkipNet([1, 8, 8], 10, [4], 2).eval()
    measured(fit, method, net)
    assert method.results[0]["test/accepted"] == 0
    assert "RuntimeError" in method.tables["subjects"][0]["reason"]


def test_latency_reports_a_panel_for_every_compiler_and_keeps_the_samples(fit: Any) -> None:
    timed = {"eager": "eager", "parts": "dycl", "blocked": "dycl:torchscript_blocked"}
    method = Latency(timed=timed, subjects={"net": "images.x"}, n_inputs=30, repeats=1, warm_up=2)
    measured(fit, method, digits_net(SkipNet))
    assert method.exclusive
    assert set(method.panel) == {"eager_timed", "parts_timed", "blocked_timed"}
    samples = [row["seconds"] for row in method.tables["latency"] if row["function"] == "parts"]
    assert len(samples) == 30
    assert method.panel["parts_timed"]["cost/latency_ms"] == pytest.approx(1000 * np.median(samples))
    assert {row["program"] for row in method.tables["compilation"]} == set(timed)


def test_the_shorter_of_two_sequences_goes_on_with_zeros() -> None:
    one, other = np.ones((1, 2, 3), np.float32), np.ones((1, 4, 3), np.float32)
    assert distance(one, other) == distance(other, one) == pytest.approx(6**0.5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Decisions(compiler="tvm", subjects={"net": "images.x"}, n_inputs=1), "compiler"),
        (lambda: Decisions(backend="tvm", subjects={"net": "images.x"}, n_inputs=1), "backend"),
        (lambda: Decisions(subjects={"net": "images"}, n_inputs=1), "subjects"),
        (lambda: Decisions(subjects={"net": "images.x"}, n_inputs=0), "n_inputs"),
        (lambda: Latency(timed={"a": "dycl:tvm"}, subjects={"net": "images.x"}, n_inputs=1), "timed"),
        (lambda: ExitTraining(num_classes=2, calibration=0), "calibration"),
        (lambda: GateTraining(num_classes=2, compute_penalty=-1), "compute_penalty"),
    ],
)
def test_wrong_values_are_refused_by_name(make: Any, named: str) -> None:
    with pytest.raises(ValueError, match=rf"method\.{named}"):
        make()


# Subjects -----------------------------------------------------------------------------------


def test_exits_are_calibrated_on_training_images(fit: Any) -> None:
    facts = {"in_shape": [1, 8, 8], "in_features": 64, "num_classes": 10}
    data = Digits(root="", cache="", n_train=200, n_val=50, n_test=30, **facts)
    adam = partial(torch.optim.Adam, lr=0.01)
    method = ExitTraining(num_classes=10, model=EarlyExitCNN([1, 8, 8], 10, [4, 8]), optimizer=adam)
    trainer = fit(method, data, max_epochs=3)
    assert float(method.model.threshold) != pytest.approx(0.9)  # type: ignore[operator]
    assert float(trainer.callback_metrics["train/loss"]) < 2 * np.log(10)
    assert method.model.training


def test_sequences_are_learnt(fit: Any) -> None:
    data = Transduction(root="", cache="", symbols=3, max_length=3, vocab_size=6, n_train=2000, n_val=100)
    model = GRUSeq2Seq(6, 1, 2, max_length=5, embedding=8, hidden=32)
    method = Seq2SeqTraining(num_classes=6, model=model, optimizer=partial(torch.optim.Adam, lr=0.01))
    trainer = fit(method, data, max_epochs=4)
    assert float(trainer.callback_metrics["val/acc"]) > 0.9


# Configs ------------------------------------------------------------------------------------


def test_arms_are_what_their_names_say() -> None:
    name = "experiment=efficient/dycl"
    study = compose([name]).study
    compared = ("dycl", "dycl_no_graphopt", "naive_trace", "script", "eager")
    for arm in compared[1:]:
        assert f"method.compiler={arm}" in study.arms[arm]
        assert arm in COMPILERS
    assert not study.arms.dycl
    traced, static, latency = (
        compose([name, *getattr(study.arms[arm], "overrides", study.arms[arm])])
        for arm in ("naive_trace", "naive_trace_static", "latency")
    )
    assert list(traced.method.subjects) == ["early_exit", "skipnet", "seq2seq"]
    assert list(static.method.subjects) == ["static"]
    assert list(study.arms.latency.panel) == [f"{timed}_timed" for timed in latency.method.timed]
    assert len({claim.id for claim in study.claims if claim.get("role", "claim") == "claim"}) == 4
    for stage in ("early_exit", "skipnet", "static"):
        for key in ("n_train", "n_val", "n_test"):
            assert traced.stages[stage].data[key] == traced.data.children.images[key]


@pytest.fixture(scope="module")
def paper_scale() -> Any:
    return compose(["experiment=efficient/dycl_paper"])


@pytest.mark.parametrize("stage", ["early_exit", "skipnet110", "recurrent", "blockdrop", "seq2seq"])
def test_subjects_at_paper_scale_take_steps(stage: str, paper_scale: Any) -> None:
    """Two steps of the optimizer on random tensors of the true shapes."""
    method = build_run(stage_config(paper_scale, stage), Streams(0), {})[1]
    rng = torch.Generator().manual_seed(0)
    if stage == "seq2seq":
        context, tokens = (torch.randint(3, 53, (4, length), generator=rng) for length in (40, 41))
        batch = {"context": context, "tokens": tokens, "targets": tokens}
    else:
        batch = {"x": torch.rand(4, 3, 32, 32, generator=rng), "y": torch.arange(4)}
    optimizer = method.configure_optimizers()
    seen = []
    for _ in range(2):
        losses, _, _ = method.losses(batch)
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert np.isfinite(seen).all()
    assert seen[0] != seen[1]
