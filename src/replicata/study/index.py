"""Which run is what in a study: ``outputs/<family>/<slug>/study.json``.

    index = Index.read(folder / FILE)              # None where no study was started
    index.entries[0].arm, index.entries[0].directory

A run knows its config, not the arm, levels and seed that a study calls it by; and finding that out means composing
the configs of all runs. The study command does so once and leaves the answer here, for whoever reads records without
composing anything. The state of a run is in its own record and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicata.errors import UserError
from replicata.study.plan import Cell, RunSpec, label

SCHEMA = 1
FILE = "study.json"


@dataclass(frozen=True)
class Entry:
    """One planned run.

    Attributes:
        arm: The arm whose overrides it has.
        levels: Its levels as ((factor, level), ...).
        directory: Where its record is or will be.
        hash: Hash of its config.
        code: Fingerprint of the code that it is planned with; a record that names another one is stale.
    """

    arm: str
    levels: Cell
    seed: int
    directory: Path
    hash: str
    code: str

    @property
    def label(self) -> str:
        return label(self.arm, self.levels, self.seed)

    @property
    def spec(self) -> RunSpec:
        """The entry as a run of a plan; what it was composed from is in the run's ``config.yaml``."""
        return RunSpec(self.arm, self.levels, self.seed, ())


@dataclass(frozen=True)
class Index:
    """All runs that a study planned.

    Attributes:
        name: The experiment, ``<family>/<slug>``.
        overrides: Overrides that all runs have beside the config's: what the study's command line said.
    """

    name: str
    overrides: tuple[str, ...]
    entries: tuple[Entry, ...]

    @classmethod
    def read(cls, path: Path) -> Index | None:
        """The index in a file, ``None`` where there is no file.

        Raises:
            UserError: if it is damaged or of another version; starting the study again writes it anew.
        """
        again = "`replicata study` writes it again"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError) as error:
            raise UserError(f"{path} cannot be read ({error}); {again}") from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise UserError(f"{path} is no study index of this version; {again}")
        try:
            entries = tuple(_entry(run, path.parent) for run in content["runs"])
            return cls(str(content["experiment"]), tuple(content["overrides"]), entries)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); {again}") from None

    def write(self, path: Path) -> None:
        """Write the index whole or not at all. Directories beside it are kept relative, so that all can be moved."""
        from replicata.run.record import write_atomic

        runs = [_content(entry, path.parent) for entry in self.entries]
        head: dict[str, Any] = {"schema": SCHEMA, "experiment": self.name, "overrides": list(self.overrides)}
        lines = ",\n".join(f"    {json.dumps(run, ensure_ascii=False)}" for run in runs)
        text = json.dumps(head, ensure_ascii=False, indent=2)[:-2] + f',\n  "runs": [\n{lines}\n  ]\n}}\n'
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)

    def joined(self, entries: Sequence[Entry]) -> Index:
        """The index with these entries in place of all of the same arms and levels, and the others kept."""
        planned = {(entry.arm, entry.levels) for entry in entries}
        kept = tuple(entry for entry in self.entries if (entry.arm, entry.levels) not in planned)
        return Index(self.name, self.overrides, (*kept, *entries))


def _entry(run: dict[str, Any], folder: Path) -> Entry:
    levels = tuple((str(factor), str(level)) for factor, level in run["levels"].items())
    return Entry(run["arm"], levels, int(run["seed"]), folder / run["directory"], run["hash"], run["code"])


def _content(entry: Entry, folder: Path) -> dict[str, Any]:
    directory, root = Path(os.path.abspath(entry.directory)), Path(os.path.abspath(folder))
    inside = directory.relative_to(root).as_posix() if directory.is_relative_to(root) else str(directory)
    named = {"arm": entry.arm, "levels": dict(entry.levels), "seed": entry.seed}
    return {**named, "directory": inside, "hash": entry.hash, "code": entry.code}
