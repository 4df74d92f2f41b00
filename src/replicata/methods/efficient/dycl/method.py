"""What is measured: decisions against the original program's, and latencies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from replicata.errors import UserError
from replicata.methods.efficient.dycl.backends import BACKENDS
from replicata.methods.efficient.dycl.compile import Compiled
from replicata.methods.efficient.dycl.compilers import COMPILERS, build
from replicata.methods.efficient.dycl.isolate import Rejected, isolated
from replicata.methods.efficient.dycl.rewrite import rewrite
from replicata.metrics.timing import interleaved, median_seconds
from replicata.tasks.base import Row
from replicata.tasks.procedure import Procedure

ERRORS = torch.logspace(-9, 3, 61, dtype=torch.float64)  # where the distribution of errors is recorded


class Subjects(Procedure):
    """Work on compiled subjects: the unit is a subject.

    Args:
        subjects: By the name of the stage that trained it, where its inputs are: ``<data module>.<column>``.
        n_inputs: Test inputs, the first ones of the split; one is one call, as dynamic networks run.
        **task: see :class:`~replicata.tasks.base.Task`.
    """

    def __init__(self, subjects: Mapping[str, str], n_inputs: int, **task: Any) -> None:
        if not subjects or not all(place.count(".") == 1 for place in subjects.values()):
            raise ValueError(f"method.subjects must name <data module>.<column> by stage, got {dict(subjects)}")
        if n_inputs < 1:
            raise ValueError(f"method.n_inputs must be at least 1, got {n_inputs}")
        super().__init__(**task)
        self.subjects, self.n_inputs = dict(subjects), n_inputs

    def units(self) -> int:
        if missing := set(self.subjects) - set(self.stages):
            raise UserError(f"method.subjects: there is no stage {min(missing)!r}")
        return len(self.subjects)

    def subject(self, item: int) -> tuple[str, nn.Module]:
        name = list(self.subjects)[item]
        return name, self.stages[name].module()

    def rows(self, subject: str, split: str) -> list[Tensor]:
        """The first inputs of a split, each a batch of one."""
        child, column = self.subjects[subject].split(".")
        data = self.trainer.datamodule[child]  # type: ignore[attr-defined]
        batch = data.transform({column: data.splits[split][column][: self.n_inputs]})
        return list(batch[column].split(1))


class Decisions(Subjects):
    r"""Compares one compiler's programs with the originals, input by input.

    Metrics, over the subjects whose program was accepted, and over the inputs that are not ``near``:
        - ``test/eta``: share of inputs with another label (or token sequence) or another path, worst subject (1);
        - ``test/eta_label``: share with another label or sequence, worst subject;
        - ``test/eta_path``: share with another path, *least* over the subjects;
        - ``test/delta``: the largest error of the output, worst subject (2);
        - ``test/near``: share of inputs with a condition within ``tolerance`` of its threshold, worst subject;
        - ``test/accepted``: share of the subjects that the compiler accepted;
        - ``train/balanced``: 1 if no path of any subject takes more than half of the training inputs, else 0;
        - ``cost/sub_networks``, ``cost/outputs``: what DyCL compiled, and its outputs, over all subjects.

    Tables: ``subjects`` (one row each), ``errors`` (their distribution).

    Args:
        compiler: One of :func:`~replicata.methods.efficient.dycl.compilers.build`.
        backend: Compiler of DyCL's sub-networks.
        tolerance: Of ``near``, our choice: ten times the rounding of a probability in single precision.
        **subjects: see :class:`Subjects`.
    """

    def __init__(
        self, compiler: str = "dycl", backend: str = "torchscript", tolerance: float = 1e-6, **subjects: Any
    ) -> None:
        _known("compiler", compiler, COMPILERS)
        _known("backend", backend, BACKENDS)
        super().__init__(**subjects)
        self.compiler, self.backend, self.tolerance = compiler, backend, tolerance

    @torch.no_grad()
    def work(self, item: int) -> dict[str, float]:
        name, model = self.subject(item)
        inputs = self.rows(name, "test")
        program = rewrite(model)
        expected = [_plain(model(x)) for x in inputs]
        far = np.array([program.interpret(x)[1] > self.tolerance for x in inputs])
        paths = [int(model(x)[1]) for x in self.rows(name, "train")]
        most = max(map(paths.count, set(paths))) / len(paths)
        metrics = {"test/near": float(1 - far.mean()), "train/balanced": float(most <= 0.5)}
        reason = ""
        try:
            found, costs = isolated(lambda: observe(self.compiler, self.backend, model, inputs))
            metrics |= {"test/accepted": 1.0, **costs}
            if far.any():
                metrics |= self.compare(name, expected, found, far)
        except Rejected as rejection:
            reason = str(rejection)
            metrics["test/accepted"] = 0.0
        row: Row = {"subject": name, "conditions": len(program.conditions), "path_share": most, "reason": reason}
        self.record("subjects", [{**row, **metrics}])
        return metrics

    def compare(
        self, subject: str, expected: Sequence[Output], found: Sequence[Output], far: np.ndarray
    ) -> dict[str, float]:
        pairs = [pair for pair, counts in zip(zip(expected, found, strict=True), far, strict=True) if counts]
        label = np.array([not np.array_equal(one[0].argmax(-1), other[0].argmax(-1)) for one, other in pairs])
        path = np.array([one[1] != other[1] for one, other in pairs])
        error = np.array([distance(one[0], other[0]) for one, other in pairs])
        self.record(
            "errors",
            [{"subject": subject, "error": float(e), "share": float((error <= float(e)).mean())} for e in ERRORS],
        )
        return {
            "test/eta": float((label | path).mean()),  # (1)
            "test/eta_label": float(label.mean()),
            "test/eta_path": float(path.mean()),
            "test/delta": math.log10(error.max() + 1e-10),  # (2)
        }

    def finish(self) -> dict[str, float]:
        least, mean = {"test/eta_path", "train/balanced"}, {"test/accepted"}
        sums = {"cost/sub_networks", "cost/outputs"}
        values: dict[str, float] = {}
        for name in dict.fromkeys(name for metrics in self.results for name in metrics):
            column = [metrics[name] for metrics in self.results if name in metrics]
            if name in mean:
                values[name] = sum(column) / len(column)
            else:
                values[name] = (min if name in least else sum if name in sums else max)(column)
        return values


class Latency(Subjects):
    """Times several compilers' programs by turns, on the same inputs; the machine is this run's alone.

    Every compiler of ``timed`` is reported as the panel ``<name>_timed`` with ``cost/latency_ms``: the geometric mean
    over subjects of the median over inputs, milliseconds. One that rejects a subject has none.

    Tables: ``latency`` (raw samples), ``medians`` (by subject), ``compilation`` (seconds, and those of the back end).

    Args:
        timed: By the name to report, ``<compiler>`` or ``<compiler>:<back end>``.
        repeats: Calls on one input in a sample. Paper: 5.
        warm_up: Untimed calls before. Ours.
        **subjects: see :class:`Subjects`.
    """

    exclusive: ClassVar[bool] = True

    def __init__(self, timed: Mapping[str, str], repeats: int = 5, warm_up: int = 10, **subjects: Any) -> None:
        for program in timed.values():
            compiler, _, backend = program.partition(":")
            _known("timed", compiler, COMPILERS)
            _known("timed", backend or "torchscript", BACKENDS)
        super().__init__(**subjects)
        self.timed, self.repeats, self.warm_up = dict(timed), repeats, warm_up

    @torch.inference_mode()
    def work(self, item: int) -> dict[str, float]:
        subject, model = self.subject(item)
        inputs = self.rows(subject, "test")
        programs = {name: self.build(subject, name, model, inputs[:1]) for name in self.timed}
        accepted = {name: program for name, program in programs.items() if program is not None}
        samples = interleaved(accepted, [(x,) for x in inputs], repeats=self.repeats, warm_up=self.warm_up)
        self.record("latency", [{"subject": subject, **sample} for sample in samples])
        medians = {name: 1000 * seconds for name, seconds in median_seconds(samples).items()}
        self.record("medians", [{"subject": subject, "program": name, "ms": ms} for name, ms in medians.items()])
        return {f"cost/{name}_ms": ms for name, ms in medians.items()}

    def build(self, subject: str, name: str, model: nn.Module, example: list[Tensor]) -> Callable[..., Any] | None:
        compiler, _, backend = self.timed[name].partition(":")
        inside = [0.0]

        def clocked(module: nn.Module, inputs: Sequence[Tensor]) -> Callable[..., Any]:
            start = time.perf_counter()
            made = BACKENDS[backend or "torchscript"](module, inputs)
            inside[0] += time.perf_counter() - start
            return made

        start = time.perf_counter()
        program, reason = None, ""
        try:
            program = build(compiler, model, example, clocked)
            program(*example)
        except Exception as error:
            program, reason = None, f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        row: Row = {"subject": subject, "program": name, "reason": reason}
        seconds = {"seconds": time.perf_counter() - start, "backend_seconds": inside[0]}
        self.record("compilation", [{**row, **seconds}])
        return program

    def finish(self) -> dict[str, float]:
        values = {}
        for name in self.timed:
            medians = [metrics[f"cost/{name}_ms"] for metrics in self.results if f"cost/{name}_ms" in metrics]
            if len(medians) == len(self.subjects):
                values[f"cost/{name}_ms"] = math.exp(sum(map(math.log, medians)) / len(medians))
                self.report(f"{name}_timed", {"cost/latency_ms": values[f"cost/{name}_ms"]})
        return values


Output = tuple[np.ndarray, int]  # logits, path


def observe(
    compiler: str, backend: str, model: nn.Module, inputs: Sequence[Tensor]
) -> tuple[list[Output], dict[str, float]]:
    """Outputs of the compiled program; it is compiled with the first input as the example."""
    program = build(compiler, model, inputs[:1], BACKENDS[backend])
    costs = {}
    if isinstance(program, Compiled):
        costs = {"cost/sub_networks": float(len(program.executables)), "cost/outputs": float(program.outputs)}
    return [_plain(program(x)) for x in inputs], costs


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Euclidean norm of the difference; the shorter of two sequences goes on with zeros."""
    if one.shape != other.shape:
        length = max(one.shape[1], other.shape[1])
        one, other = (np.pad(array, ((0, 0), (0, length - array.shape[1]), (0, 0))) for array in (one, other))
    return float(np.linalg.norm((one.astype(np.float64) - other).ravel()))


def _plain(result: tuple[Tensor, Tensor]) -> Output:
    output, path = result
    return output.detach().cpu().numpy().copy(), int(path)


def _known(key: str, value: str, choices: Sequence[str] | Mapping[str, Any]) -> None:
    if value not in choices:
        raise ValueError(f"method.{key} must be one of {', '.join(choices)}, got {value!r}")
