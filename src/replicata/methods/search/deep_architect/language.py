r"""The search-space language: modules whose hyper-parameters are still open, and compositions of them.

A module is told the shape of its input, then asks for one choice after the other; what it asks next may depend on
what was chosen. So a space is a tree: a node is a partly specified module, its children are the values of the
choice that comes next, and a leaf is a model. As soon as a part is specified its output shape is known and
initialises the part behind it; a choice of one value is taken as it comes up.

>>> space = Concat([Conv2D([4, 8], [3]), Repeat(Concat([Affine([10, 20]), ReLU()]), [1, 2])])
>>> print(space)
Concat
    Conv2D filters=[4, 8] size=[3] stride=[1]
    Repeat times=[1, 2]
        Concat
            Affine units=[10, 20]
            ReLU
>>> model = Space(space, (1, 8, 8)).start()
>>> model.get_choices()
('Conv2D.filters', [4, 8])
>>> for index in (1, 1, 0, 1):
...     model.choose(index)
>>> model.is_specified(), model.get_outdim()
(True, (20,))
>>> [type(basic).__name__ for basic in model.basic()]
['Conv2D', 'Affine', 'ReLU', 'Affine', 'ReLU']
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from replicata.nn.same_padding import SameConv2d, SamePool2d

Shape = tuple[int, ...]  # of one example: (C, H, W) or (F,)


class Module(ABC):
    """The interface: initialize with a shape, choose until specified, then compile."""

    in_dim: Shape | None = None

    def initialize(self, in_dim: Shape) -> None:
        """Tell the shape of the input; choices that have only one value are taken here and in :meth:`choose`."""
        if self.in_dim is not None:
            raise RuntimeError(f"{type(self).__name__} is initialised already: take a copy of the space")
        self.in_dim = in_dim

    @abstractmethod
    def is_specified(self) -> bool:
        """Whether nothing is left to choose."""

    @abstractmethod
    def get_choices(self) -> tuple[str, Sequence[Any]]:
        """Name and values of the next choice."""

    @abstractmethod
    def choose(self, index: int) -> None:
        """Take the value with this number for the next choice."""

    @abstractmethod
    def get_outdim(self) -> Shape:
        """Shape of the output of a specified module."""

    @abstractmethod
    def compile(self) -> nn.Module:
        """A specified module as a network, with weights drawn from the global generator."""

    @abstractmethod
    def basic(self) -> Iterator[Basic]:
        """The basic modules of a specified module, in order."""

    def code(self) -> list[Any]:
        """A specified module as plain values: equal code means equal networks."""
        return [item for basic in self.basic() for item in basic.code()]

    @abstractmethod
    def outline(self) -> list[str]:
        """The program, line by line."""

    def __str__(self) -> str:
        return "\n".join(self.outline())


# Basic modules ------------------------------------------------------------------------------


class Basic(Module):
    """A layer with named hyper-parameters, each with its domain.

    Args:
        **domains: Values by name, in the order in which they are chosen.

    Attributes:
        rank: Number of axes that the input must have; ``None``: any.
    """

    rank: ClassVar[int | None] = None

    def __init__(self, **domains: Sequence[Any]) -> None:
        for name, values in domains.items():
            if not values:
                raise ValueError(f"{type(self).__name__}.{name} has no values to choose from")
        self.domains = {name: list(values) for name, values in domains.items()}
        self.chosen: dict[str, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Basic:
        twin = copy.copy(self)  # domains never change, and would be most of what there is to copy
        twin.chosen = dict(self.chosen)
        return twin

    def initialize(self, in_dim: Shape) -> None:
        if self.rank not in (None, len(in_dim)):
            raise ValueError(f"{type(self).__name__} needs an input of {self.rank} axes, it gets {in_dim}")
        super().initialize(in_dim)
        self._propagate()

    def is_specified(self) -> bool:
        return self.in_dim is not None and len(self.chosen) == len(self.domains)

    def get_choices(self) -> tuple[str, Sequence[Any]]:
        name = list(self.domains)[len(self.chosen)]
        return f"{type(self).__name__}.{name}", self.domains[name]

    def choose(self, index: int) -> None:
        name = list(self.domains)[len(self.chosen)]
        self.chosen[name] = self.domains[name][index]
        self._propagate()

    def _propagate(self) -> None:
        while not self.is_specified() and len(self.get_choices()[1]) == 1:
            self.choose(0)

    def get_outdim(self) -> Shape:
        assert self.in_dim is not None
        return self.in_dim

    def basic(self) -> Iterator[Basic]:
        yield self

    def code(self) -> list[Any]:
        return [[type(self).__name__, dict(self.chosen)]]

    def outline(self) -> list[str]:
        return [" ".join([type(self).__name__, *(f"{name}={values}" for name, values in self.domains.items())])]


class Empty(Basic):
    """A wire."""

    def compile(self) -> nn.Module:
        return nn.Identity()


class UserHyperparams(Basic):
    """Passes its input on; what is chosen here is for whoever trains the model (see :func:`published`)."""

    def compile(self) -> nn.Module:
        return nn.Identity()


class ReLU(Basic):
    def compile(self) -> nn.Module:
        return nn.ReLU()


class Sigmoid(Basic):
    def compile(self) -> nn.Module:
        return nn.Sigmoid()


class Tanh(Basic):
    def compile(self) -> nn.Module:
        return nn.Tanh()


class Dropout(Basic):
    """Args: ``keeps``, the probabilities of keeping a unit."""

    def __init__(self, keeps: Sequence[float]) -> None:
        super().__init__(keep=keeps)

    def compile(self) -> nn.Module:
        return nn.Dropout(1 - self.chosen["keep"])


class BatchNorm(Basic):
    """Running statistics with the decay 0.9 of the authors' code; over channels, or over units."""

    def compile(self) -> nn.Module:
        assert self.in_dim is not None
        return nn.BatchNorm2d(self.in_dim[0]) if len(self.in_dim) == 3 else nn.BatchNorm1d(self.in_dim[0])


class Affine(Basic):
    """Linear layer on the flattened input, Xavier-uniform."""

    def __init__(self, units: Sequence[int]) -> None:
        super().__init__(units=units)

    def get_outdim(self) -> Shape:
        return (self.chosen["units"],)

    def compile(self) -> nn.Module:
        assert self.in_dim is not None
        linear = nn.Linear(math.prod(self.in_dim), self.chosen["units"])
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        return nn.Sequential(nn.Flatten(), linear)


class _Window(Basic):
    """Anything that slides a square window with SAME padding."""

    rank: ClassVar[int | None] = 3

    def _outdim(self, channels: int) -> Shape:
        assert self.in_dim is not None
        return channels, *(math.ceil(side / self.chosen["stride"]) for side in self.in_dim[1:])


class Conv2D(_Window):
    """Convolution, He-normal."""

    def __init__(self, filters: Sequence[int], sizes: Sequence[int], strides: Sequence[int] = (1,)) -> None:
        super().__init__(filters=filters, size=sizes, stride=strides)

    def get_outdim(self) -> Shape:
        return self._outdim(self.chosen["filters"])

    def compile(self) -> nn.Module:
        assert self.in_dim is not None
        layer = SameConv2d(self.in_dim[0], self.chosen["filters"], self.chosen["size"], self.chosen["stride"])
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
        return layer


class _Pool(_Window):
    kind: ClassVar[str]

    def __init__(self, sizes: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__(size=sizes, stride=strides)

    def get_outdim(self) -> Shape:
        assert self.in_dim is not None
        return self._outdim(self.in_dim[0])

    def compile(self) -> nn.Module:
        return SamePool2d(self.kind, self.chosen["size"], self.chosen["stride"])


class MaxPool(_Pool):
    kind = "max"


class AvgPool(_Pool):
    kind = "avg"


# Composite modules --------------------------------------------------------------------------


class Concat(Module):
    """One module after the other."""

    def __init__(self, modules: Sequence[Module]) -> None:
        if not modules:
            raise ValueError("Concat needs at least one module")
        self.modules = list(modules)
        self.index = 0  # of the module that is being specified

    def initialize(self, in_dim: Shape) -> None:
        super().initialize(in_dim)
        self.modules[0].initialize(in_dim)
        self._propagate()

    def _propagate(self) -> None:
        while not self.is_specified() and self.modules[self.index].is_specified():
            outdim = self.modules[self.index].get_outdim()
            self.index += 1
            if not self.is_specified():
                self.modules[self.index].initialize(outdim)

    def is_specified(self) -> bool:
        return self.index == len(self.modules)

    def get_choices(self) -> tuple[str, Sequence[Any]]:
        return self.modules[self.index].get_choices()

    def choose(self, index: int) -> None:
        self.modules[self.index].choose(index)
        self._propagate()

    def get_outdim(self) -> Shape:
        return self.modules[-1].get_outdim()

    def compile(self) -> nn.Module:
        return nn.Sequential(*(module.compile() for module in self.modules))

    def basic(self) -> Iterator[Basic]:
        for module in self.modules:
            yield from module.basic()

    def code(self) -> list[Any]:
        return [item for module in self.modules for item in module.code()]

    def outline(self) -> list[str]:
        return [type(self).__name__, *_indented(self.modules)]


class _Tied(Concat):
    """Copies of one module that repeat the choices of the first."""

    def __init__(self, modules: Sequence[Module]) -> None:
        super().__init__(modules)
        self.history: list[int] = []

    def choose(self, index: int) -> None:
        self.history.append(index)
        super().choose(index)
        while self.index > 0 and not self.is_specified():
            for past in self.history:
                super().choose(past)


class _Choice(Module):
    """A choice of its own, and then the module that it leads to: a copy, so that a program is never changed.

    Args:
        name: Name of the choice.
        values: Its values.
    """

    def __init__(self, name: str, values: Sequence[Any]) -> None:
        if not values:
            raise ValueError(f"{type(self).__name__} has nothing to choose from")
        self.name, self.values = name, list(values)
        self.module: Module | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Choice:
        twin = copy.copy(self)
        twin.module = copy.deepcopy(self.module, memo)
        return twin

    @abstractmethod
    def lead(self, value: Any) -> Module:
        """A fresh copy of the module that a value leads to."""

    def initialize(self, in_dim: Shape) -> None:
        super().initialize(in_dim)
        if len(self.values) == 1:
            self.choose(0)

    def is_specified(self) -> bool:
        return self.module is not None and self.module.is_specified()

    def get_choices(self) -> tuple[str, Sequence[Any]]:
        if self.module is None:
            return f"{type(self).__name__}.{self.name}", self.values
        return self.module.get_choices()

    def choose(self, index: int) -> None:
        if self.module is not None:
            self.module.choose(index)
            return
        assert self.in_dim is not None
        self.module = self.lead(self.values[index])
        self.module.initialize(self.in_dim)

    @property
    def _led(self) -> Module:
        assert self.module is not None
        return self.module

    def get_outdim(self) -> Shape:
        return self._led.get_outdim()

    def compile(self) -> nn.Module:
        return self._led.compile()

    def basic(self) -> Iterator[Basic]:
        return self._led.basic()

    def code(self) -> list[Any]:
        return self._led.code()


class Or(_Choice):
    """One of several modules."""

    def __init__(self, modules: Sequence[Module]) -> None:
        super().__init__("branch", range(len(modules)))
        self.modules = list(modules)

    def lead(self, value: Any) -> Module:
        return copy.deepcopy(self.modules[value])

    def outline(self) -> list[str]:
        return ["Or", *_indented(self.modules)]


class Repeat(_Choice):
    """So many copies of a module in a row, each with choices of its own."""

    chain: ClassVar[Callable[[Sequence[Module]], Module]] = Concat

    def __init__(self, module: Module, times: Sequence[int]) -> None:
        if any(n < 1 for n in times):
            raise ValueError(f"{type(self).__name__} repeats at least once, got {list(times)}")
        super().__init__("times", times)
        self.repeated = module

    def lead(self, value: Any) -> Module:
        return type(self).chain([copy.deepcopy(self.repeated) for _ in range(value)])

    def outline(self) -> list[str]:
        return [f"{type(self).__name__} times={self.values}", *_indented([self.repeated])]


class RepeatTied(Repeat):
    """The same with equal choices in all copies; their weights are their own."""

    chain: ClassVar[Callable[[Sequence[Module]], Module]] = _Tied


class _Wrapper(Module):
    """Leaves all choices to the module inside."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def initialize(self, in_dim: Shape) -> None:
        super().initialize(in_dim)
        self.module.initialize(in_dim)

    def is_specified(self) -> bool:
        return self.module.is_specified()

    def get_choices(self) -> tuple[str, Sequence[Any]]:
        return self.module.get_choices()

    def choose(self, index: int) -> None:
        self.module.choose(index)

    def get_outdim(self) -> Shape:
        return self.module.get_outdim()

    def compile(self) -> nn.Module:
        return self.module.compile()

    def basic(self) -> Iterator[Basic]:
        return self.module.basic()

    def code(self) -> list[Any]:
        return self.module.code()

    def outline(self) -> list[str]:
        return [type(self).__name__, *_indented([self.module])]


class Residual(_Wrapper):
    """Input plus output; where shapes differ both are padded with zeros at the end, flattened before if axes differ."""

    def get_outdim(self) -> Shape:
        assert self.in_dim is not None
        pair = [self.in_dim, self.module.get_outdim()]
        if len(pair[0]) != len(pair[1]):
            pair = [(math.prod(shape),) for shape in pair]
        return tuple(max(sides) for sides in zip(*pair, strict=True))

    def compile(self) -> nn.Module:
        return _Sum(self.module.compile(), self.get_outdim())

    def code(self) -> list[Any]:
        return [["Residual", self.module.code()]]


class _Sum(nn.Module):
    """:math:`x + f(x)` in a shape that holds both."""

    def __init__(self, inner: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.inner, self.shape = inner, shape

    def forward(self, x: Tensor) -> Tensor:
        return self._fill(x) + self._fill(self.inner(x))

    def _fill(self, x: Tensor) -> Tensor:
        if x.ndim - 1 != len(self.shape):
            x = x.flatten(1)
        missing = [side - have for side, have in zip(self.shape, x.shape[1:], strict=True)]
        return F.pad(x, [side for gap in reversed(missing) for side in (0, gap)])


class ChoiceBisection(_Wrapper):
    """Chooses among ordered values by halves, so that neighbours share statistics; the reachable models stay.

    The first :math:`\\lfloor (l + r) / 2 \\rfloor - l` of the values :math:`l \\dots r - 1` are one half.
    """

    def __init__(self, module: Module) -> None:
        super().__init__(module)
        self.left, self.right = 0, 0  # equal: no choice is under way

    def _range(self) -> tuple[int, int]:
        return (self.left, self.right) if self.right > self.left else (0, len(self.module.get_choices()[1]))

    def get_choices(self) -> tuple[str, Sequence[Any]]:
        name, values = self.module.get_choices()
        left, right = self._range()
        middle = (left + right) // 2
        return f"{name}[{left}:{right}]", (values[left:middle], values[middle:right])

    def choose(self, index: int) -> None:
        left, right = self._range()
        middle = (left + right) // 2
        self.left, self.right = ((left, middle), (middle, right))[index]
        if self.right - self.left == 1:
            chosen, self.right = self.left, self.left
            self.module.choose(chosen)


def optional(module: Module) -> Or:
    """The module or nothing."""
    return Or([Empty(), module])


def maybe_swap(first: Module, second: Module) -> Or:
    """Two modules in either order."""
    return Or([Concat([first, second]), Concat([second, first])])


def _indented(modules: Sequence[Module]) -> list[str]:
    return ["    " + line for module in modules for line in module.outline()]


# Spaces -------------------------------------------------------------------------------------


class Space:
    """A program and the shape of its input.

    Args:
        module: The program; it is copied for each model and stays as it is.
        in_dim: Shape of one example, ``(C, H, W)`` or ``(F,)``.
    """

    def __init__(self, module: Module, in_dim: Sequence[int]) -> None:
        self.module, self.in_dim = module, tuple(in_dim)

    def start(self) -> Module:
        """The root of the tree."""
        model = copy.deepcopy(self.module)
        model.initialize(self.in_dim)
        return model

    def build(self, choices: Sequence[int]) -> Module:
        """The node that choices lead to."""
        model = self.start()
        for index in choices:
            model.choose(index)
        return model


def published(model: Module) -> dict[str, Any]:
    """What a specified model's :class:`UserHyperparams` say."""
    return {
        name: value
        for basic in model.basic()
        if isinstance(basic, UserHyperparams)
        for name, value in basic.chosen.items()
    }
