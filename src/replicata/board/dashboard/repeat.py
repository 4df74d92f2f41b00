"""The command that repeats a run, found from what it left behind and proved by composing it.

repeater = Repeater(dirs, index)
repeater.command("graph/dagnn/3f45f6fa5373/seed0").line     # replicata run experiment=graph/dagnn seed=0

A run's record does not hold its command line: it may have been one of a study, a sweep or a search. Candidates are the
line that its log begins with, the overrides of the arm that a study calls it by, and the differences between its config
and the composed one. The first whose config comes out with the run's hash is the command; nothing is launched.
"""

from __future__ import annotations

import re
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from replicata.board.dashboard.index import Index
from replicata.errors import UserError
from replicata.run import compose as composing
from replicata.run.identity import OUTSIDE
from replicata.study.index import FILE
from replicata.study.index import Index as StudyIndex
from replicata.study.parse import parse
from replicata.study.plan import overrides_of

_ARGV = re.compile(r"INFO replicata\.run\.logfile: python [\d.]+\w*, (.*)$")
_SWEPT = re.compile(r"^[^=]+=(?:.*(?:choice|range|interval|glob|tag|shuffle|sort)\(|[^\[{'\"(]*,)")
_SWEEPS = ("hydra", "launcher", "search", "arm", "force", "trace", "paths", "logger")
KEPT = 512


@dataclass(frozen=True)
class Command:
    """A command line, and whether its config was found to have the run's hash."""

    line: str
    proven: bool


class Repeater:
    """Finds commands; each is sought once.

    Args:
        dirs: Folders of config groups, users' own first.
        index: The runs.
    """

    _composing = threading.Lock()  # Hydra keeps one global state

    def __init__(self, dirs: Sequence[Path], index: Index) -> None:
        self.extra = list(dirs[:-1])
        self.dirs = list(dirs)
        self.index = index
        self._found: dict[tuple[str, str], Command | None] = {}

    def command(self, path: str) -> Command | None:
        """The command of a run; ``None`` where its configs are no longer what they were."""
        rows = self.index.rows("SELECT name, hash, seed, stamp FROM runs WHERE path = ?", [path])
        if not rows or rows[0]["seed"] is None:
            return None
        name, config_hash, seed, stamp = rows[0]
        key = (path, stamp)
        if key not in self._found:
            if len(self._found) >= KEPT:
                self._found.pop(next(iter(self._found)))
            self._found[key] = self._seek(path, name, config_hash, seed)
        return self._found[key]

    def plausible(self, path: str) -> Command | None:
        """The first candidate, not proved: composing takes a tenth of a second, and static pages have many runs."""
        rows = self.index.rows("SELECT name, seed FROM runs WHERE path = ?", [path])
        if not rows or rows[0]["seed"] is None or "/stages/" in rows[0]["name"]:
            return None
        for words in self._planned(path, *rows[0]):
            return Command(self._line(words), False)
        said = self._argv(self.index.outputs / path)
        if said and "--multirun" not in said and "-m" not in said:
            return Command(self._line([word for word in said if "=" in word or word.startswith("~")]), False)
        return None

    def _seek(self, path: str, name: str, config_hash: str, seed: int) -> Command | None:
        if "/stages/" in name:
            return None
        tried: list[list[str]] = []
        for words in self._candidates(path, name, seed):
            if words in tried:
                continue
            tried.append(words)
            if self._hash(words) == (config_hash, seed):
                return Command(self._line(words), True)
        return None

    def _line(self, words: Sequence[str]) -> str:
        folders = [word for folder in self.extra for word in ("--config-dir", str(folder))]
        return shlex.join(["replicata", "run", *folders, *words])

    def _candidates(self, path: str, name: str, seed: int) -> Iterator[list[str]]:
        yield from self._planned(path, name, seed)
        said = self._argv(self.index.outputs / path)
        kept = [word for word in said if "=" in word or word.startswith("~")]
        if kept and "--multirun" not in said and "-m" not in said:
            yield kept
        own = [
            word
            for word in kept
            if re.split(r"[./=]", word.lstrip("+~"))[0] not in (*_SWEEPS, "seed") and not _SWEPT.match(word)
        ]
        if name != "adhoc" and not any(word.startswith("experiment=") for word in own):
            own.insert(0, f"experiment={name}")
        rest = self._differences(path, [*own, f"seed={seed}"])
        if rest is not None:
            yield [*own, *rest, f"seed={seed}"]

    def _planned(self, path: str, name: str, seed: int) -> Iterator[list[str]]:
        """As an arm of the studies that plan it."""
        for row in self.index.rows("SELECT DISTINCT study FROM planned WHERE directory = ?", [path]):
            try:
                index = StudyIndex.read(self.index.outputs / row["study"] / FILE)
                study = parse(composing.described(row["study"], self.dirs).get("study"), row["study"])
            except UserError:
                continue
            for entry in index.entries if index is not None else ():
                directory = (self.index.outputs / path).resolve()
                if entry.directory.resolve() == directory and entry.arm in study.arms:
                    try:
                        words = overrides_of(study, study.arms[entry.arm], entry.levels)
                    except KeyError:
                        continue
                    assert index is not None
                    yield [*words, *index.overrides, f"seed={seed}"]

    @staticmethod
    def _argv(directory: Path) -> list[str]:
        """The command line that the log begins with."""
        try:
            with (directory / "log.txt").open(encoding="utf-8", errors="replace") as file:
                for line in file:
                    found = _ARGV.search(line.rstrip("\n"))
                    if found:
                        return found[1].split(" ")[1:]
        except OSError:
            pass
        return []

    def _differences(self, path: str, words: Sequence[str]) -> list[str] | None:
        """Overrides that lead from the config of ``words`` to that of the run, leaf by leaf."""
        from replicata.run.space import text_of

        config = self._compose(words)
        try:
            wanted = _leaves(composing.read(self.index.outputs / path / "config.yaml"))
        except (OSError, ValueError, yaml.YAMLError):
            return None
        if config is None:
            return None
        there = _leaves(config)
        found = []
        for key, value in wanted.items():
            if key not in there:
                found.append(f"+{key}={text_of(value)}")
            elif there[key] != value:
                found.append(f"{key}={text_of(value)}")
        found += [f"~{key}" for key in there if key not in wanted]
        return found

    def _compose(self, words: Sequence[str]) -> dict[str, Any] | None:
        from omegaconf import OmegaConf

        from replicata.run.identity import resolved

        with self._composing:
            try:
                content = OmegaConf.to_container(resolved(composing.compose(words, self.extra)))
            except Exception:  # whatever Hydra says about words that no longer fit the configs
                return None
        assert isinstance(content, dict)
        return {str(key): value for key, value in content.items()}

    def _hash(self, words: Sequence[str]) -> tuple[str, int] | None:
        from replicata.run.identity import identify

        with self._composing:
            try:
                identity = identify(composing.compose(words, self.extra))
            except Exception:  # as above
                return None
        return identity.hash, identity.seed


def _leaves(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves that can change the numbers; lists stay lists."""
    own = {key: value for key, value in config.items() if key not in OUTSIDE}
    leaves: dict[str, Any] = {}

    def walk(node: Any, prefix: str) -> None:
        if isinstance(node, Mapping) and node:
            for key, value in node.items():
                walk(value, f"{prefix}.{key}" if prefix else str(key))
        else:
            leaves[prefix] = node

    walk(own, "")
    return leaves
