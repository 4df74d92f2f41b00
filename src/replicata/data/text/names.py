"""Names of the functions of C projects, vulnerable or not: the FAVD sets.

Binkley, Moonen, Isaacman 2022; CC BY 4.0; files: https://github.com/secureIT-project/FAVD (names/processed).
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from replicata.data.files import published
from replicata.data.folds import leave_one_out, listed, split_by_fold
from replicata.data.module import Split, TensorDataModule, take
from replicata.data.text.characters import Characters
from replicata.data.text.identifiers import split_identifier
from replicata.errors import nearest

SOURCE = "https://raw.githubusercontent.com/secureIT-project/FAVD/main/names/processed/"
# First digits of the SHA-256 of <project>_benign.txt and <project>_vulnerable.txt; VDISC: not at hand.
DIGESTS: dict[str, tuple[str, str]] = {
    "FFmpeg": ("54832c4399ebf698", "8052479afe26621c"),
    "LibTIFF": ("a6b06589e86ae205", "3aedcf143eae9a65"),
    "LibPNG": ("e50ce3b5b1200324", "7ba43ac63ac73e0d"),
    "Pidgin": ("3798cea118a26147", "c9c3e988add76b31"),
    "Asterisk": ("7ddbc4c9c037100b", "c7e6e1833d4ebee9"),
    "VLC": ("6315cd7f1a06b114", "80e53956626b9200"),
    "VDISC": ("", ""),
}
CHARACTERS = string.ascii_letters + "_1234567890.- "  # the blank only pads


@dataclass(frozen=True)
class Unit:
    """One training and test set: a fold of a project, or a project against all others."""

    project: str
    fold: int


class Names(TensorDataModule):
    """Function names of several projects, their words, and whether the function had a vulnerability.

    Names are kept as they are in the files, in upper and lower case. Those with other characters or more than
    ``length`` of them are left out, and of the benign ones those that are vulnerable as well.

    A unit is what is trained and tested on its own. ``within``: each fold of each project. The folds are those of the
    authors' code, contiguous blocks of a shuffled list; their generator is NumPy's ``RandomState`` with the seed of the
    run, and the paper's own is 99. ``across``: each project, training on all others without the names that it has
    (one fold of the whole for each project).

    :meth:`cut` gives the splits of any unit. Splits for a network are those of the units at ``fold``; without one,
    training has all names, and no other split has any.

    Shapes:
        - ``x``: :math:`(B, L)` characters by number, padded with blanks;
        - ``words``: :math:`(B, W)` words by number, in order, padded with -1;
        - ``y``: :math:`(B)` 1 for vulnerable; ``project``: :math:`(B)`.

    Args:
        projects: Their names; files are ``favd_names/<project>_benign.txt`` and ``..._vulnerable.txt`` under ``root``
            or ``cache``, one name a line.
        protocol: ``within`` or ``across``.
        folds: Number of folds of a project.
        fold: The fold (``within``) or place of the project (``across``) that is tested; ``None``: all, by units.
        val_fold: Fold that a network is validated on and not trained on; ``None``: none.
        benign_per_vulnerable: Keep so many benign training names for a vulnerable one, drawn at random; ``None``: all.
            It falls on the splits for networks.
        noise: Random strings among their benign training names, as the authors of LAVDNN add them.
        length: Characters :math:`L` of the buffer.
        vocab_size: Declared fact: number of characters.
        num_classes: Declared fact, 2.
        **loader: see :class:`~replicata.data.module.TensorDataModule`.

    Attributes:
        units: What :meth:`cut` takes, in the order of projects and folds.
        vocabulary: The words by number.
        alphabet: The characters by number.
    """

    def __init__(
        self,
        *,
        projects: Sequence[str],
        protocol: Literal["within", "across"] = "within",
        folds: int = 5,
        fold: int | None = None,
        val_fold: int | None = None,
        benign_per_vulnerable: float | None = None,
        noise: int = 0,
        length: int = 50,
        vocab_size: int = 66,
        num_classes: int = 2,
        **loader: Any,
    ) -> None:
        for project in projects:
            if project not in DIGESTS:
                raise ValueError(f"data.projects: there is no {project!r}; {nearest(project, DIGESTS)}")
        if protocol not in ("within", "across"):
            raise ValueError(f"data.protocol must be within or across, got {protocol!r}")
        if not projects or len(set(projects)) != len(projects) or (protocol == "across" and len(projects) < 2):
            raise ValueError(f"data.projects must be different, and two or more for across; got {list(projects)}")
        if folds < 2:
            raise ValueError(f"data.folds must be at least 2, got {folds}")
        known = folds if protocol == "within" else len(projects)
        if fold is not None and not 0 <= fold < known:
            raise ValueError(f"data.fold must be between 0 and {known - 1}, got {fold}")
        if val_fold is not None and (fold is None or val_fold == fold or not 0 <= val_fold < known):
            raise ValueError(f"data.val_fold must be between 0 and {known - 1} and beside data.fold, got {val_fold}")
        if benign_per_vulnerable is not None and benign_per_vulnerable <= 0:
            raise ValueError(f"data.benign_per_vulnerable must be above 0, got {benign_per_vulnerable}")
        super().__init__(**loader)
        self.projects, self.protocol, self.folds = list(projects), protocol, folds
        self.fold, self.val_fold = fold, val_fold
        self.benign_per_vulnerable, self.noise = benign_per_vulnerable, noise
        self.alphabet = Characters(CHARACTERS, " ", length)
        self.vocab_size, self.num_classes = vocab_size, num_classes
        self.vocabulary: list[str] = []
        self.units = [
            Unit(project, fold)
            for place, project in enumerate(projects)
            for fold in (range(folds) if protocol == "within" else (place,))
        ]

    # Units ---------------------------------------------------------------------------------

    def cut(self, unit: Unit) -> dict[str, Split]:
        """The ``train`` and ``test`` rows of a unit, in the order in which the authors' code has them."""
        place = self.projects.index(unit.project)
        if self.protocol == "within":
            own = take(self._rows, (self._rows["project"] == place).nonzero().squeeze(1))
            train, test = split_by_fold(self._folds(len(own["y"])), unit.fold)
            return {"train": take(own, train), "test": take(own, test)}
        train, test = split_by_fold(leave_one_out(self._rows["project"]), unit.fold)
        tested = take(self._rows, test)
        others = take(self._rows, train)
        vulnerable = self._rows["name"][self._rows["y"] == 1]
        hidden = torch.isin(others["name"], tested["name"])
        hidden |= torch.isin(others["name"], vulnerable) & (others["y"] == 0)
        order = torch.argsort(others["y"], descending=True, stable=True)  # the vulnerable ones first
        return {"train": take(others, order[~hidden[order]]), "test": tested}

    def _folds(self, size: int) -> Tensor:
        """The fold of each row of a project: rows are in shuffled order already."""
        block = size // self.folds + 1
        return listed([np.arange(size)[k * block : (k + 1) * block] for k in range(self.folds)], size)

    # What the base class asks for ----------------------------------------------------------

    def load(self) -> dict[str, Split]:
        numbers: dict[str, int] = {}
        texts: list[str] = []
        labels: list[int] = []
        places: list[int] = []
        for place, project in enumerate(self.projects):
            benign, vulnerable = (
                [name for name in self.read(project, kind) if name and self.alphabet.fits(name)]
                for kind in ("benign", "vulnerable")
            )
            known = set(vulnerable)
            names = [(name, 0) for name in benign if name not in known] + [(name, 1) for name in vulnerable]
            if self.protocol == "within":
                names = [names[row] for row in np.random.RandomState(self.streams.seed).permutation(len(names))]
            texts += [name for name, _ in names]
            labels += [label for _, label in names]
            places += [place] * len(names)
        words = [[numbers.setdefault(word, len(numbers)) for word in split_identifier(text)] for text in texts]
        self.vocabulary = list(numbers)
        ids: dict[str, int] = {}
        self._rows = {
            "x": self.alphabet.encode(texts),
            "words": _padded(words),
            "y": torch.tensor(labels),
            "project": torch.tensor(places),
            "row": torch.arange(len(texts)),
            "name": torch.tensor([ids.setdefault(text, len(ids)) for text in texts]),
        }
        return {"train": self._rows}

    def _cut(self, loaded: Any) -> dict[str, Split]:
        none = take(self._rows, torch.empty(0, dtype=torch.long))
        if self.fold is None:
            return {"train": self._rows, "val": none, "test": none}
        splits = self._joined(self.fold)
        if self.val_fold is None:
            return splits | {"val": none}
        val = self._joined(self.val_fold)["test"]
        kept = ~torch.isin(splits["train"]["row"], val["row"])
        return splits | {"train": take(splits["train"], kept), "val": val}

    def _joined(self, fold: int) -> dict[str, Split]:
        """The splits of the units at a fold, as one."""
        parts = [self.cut(unit) for unit in self.units if unit.fold == fold]
        return {name: {key: torch.cat([part[name][key] for part in parts]) for key in self._rows} for name in parts[0]}

    def process(self, splits: dict[str, Split]) -> dict[str, Split]:
        train = splits["train"]
        if self.benign_per_vulnerable is not None:
            benign = (train["y"] == 0).nonzero().squeeze(1)
            wanted = round(self.benign_per_vulnerable * int(train["y"].sum()))
            drawn = benign[torch.randperm(len(benign), generator=self.streams.split.at(0).torch)[:wanted]]
            splits["train"] = train = take(train, torch.cat([(train["y"] == 1).nonzero().squeeze(1), drawn]).sort()[0])
        if self.noise:
            splits["train"] = {key: torch.cat([column, self._noise(train)[key]]) for key, column in train.items()}
        return splits

    def _noise(self, like: Split) -> Split:
        """Random strings of 7 characters to a full buffer, benign and without words."""
        generator = self.streams.split.at(1).torch
        size, buffer = self.noise, self.alphabet.length
        x = torch.randint(len(string.ascii_letters) + 11, (size, buffer), generator=generator)
        lengths = torch.randint(min(7, buffer), buffer + 1, (size, 1), generator=generator)
        x = torch.where(torch.arange(buffer) < lengths, x, self.alphabet.pad)
        rows = {key: column.new_full((size, *column.shape[1:]), -1) for key, column in like.items()}
        return rows | {"x": x, "y": torch.zeros(size, dtype=torch.long)}

    def facts(self) -> dict[str, Any]:
        return {"vocab_size": len(self.alphabet), "num_classes": 2}

    # Files ---------------------------------------------------------------------------------

    def read(self, project: str, kind: str) -> list[str]:
        """The lines of one file."""
        file = f"{project}_{kind}.txt"
        digest = DIGESTS[project][kind == "vulnerable"]
        path = published(
            f"favd_names/{file}",
            root=self.root,
            cache=self.cache,
            url=SOURCE + file,
            download=self.download,
            digest=digest,
        )
        return [line.replace(";", "").strip() for line in path.read_text(encoding="utf-8").split("\n")]


class GeneratedNames(Names):
    """Names of the same form, drawn from two lists of words that overlap; nothing is read.

    Args:
        benign, vulnerable: Names in each project.
        **names: see :class:`Names`.
    """

    def __init__(self, *, benign: int = 40, vulnerable: int = 15, **names: Any) -> None:
        super().__init__(**names)
        self.counts = {"benign": benign, "vulnerable": vulnerable}

    def read(self, project: str, kind: str) -> list[str]:
        stream = self.streams.split.at(2, list(DIGESTS).index(project), kind == "vulnerable").numpy
        own = ["dec", "cpy", "len", "idx"] if kind == "vulnerable" else ["log", "end", "new", "del"]
        drawn = stream.choice(["get", "set", "put", "run", *own, *own], size=(self.counts[kind], 3))
        return ["_".join(words) for words in drawn]


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of different length as one array, with -1 behind the shorter ones."""
    lengths = np.array([len(row) for row in rows])
    array = np.full((len(rows), lengths.max()), -1)
    array[np.arange(array.shape[1]) < lengths[:, None]] = np.concatenate([np.asarray(row) for row in rows])
    return torch.from_numpy(array)
