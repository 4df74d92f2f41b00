"""CandidateTable: what candidates of a search scored, shared by all runs that may come to the same one."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import sys
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

Scores = dict[str, float]


class CandidateTable:
    """A memory of trainings: a candidate is trained once a process, and once a folder where there is one.

    The file is append-only, a line for a candidate, behind a checksum. Processes add to it under a lock and read it
    without; a line that a killed process left half-written, or that is damaged, counts as not there. What is read
    does not depend on who wrote it as long as a training is a function of spec, seed and context. So the context
    must hold whatever else the scores depend on: data, settings, code, versions. Two processes that come to one
    candidate at the same time both train it.

    Args:
        folder: Where the file lies, ``<hash of the context>.jsonl``; ``None`` keeps the table in memory.
        context: Plain values.

    Attributes:
        hits: Evaluations answered from the table.
        misses: Those that were not.
        trainings: Trainings that came to their end.
        damaged: Lines of the file that were passed over.
    """

    def __init__(self, folder: Path | None = None, context: Mapping[str, Any] | None = None) -> None:
        self.context = dict(context or {})
        self.path = None if folder is None else folder / f"{digest(self.context)}.jsonl"
        self.hits = self.misses = self.trainings = self.damaged = 0
        self._known: dict[str, Scores] = {}
        self._offset = 0

    def evaluate(self, spec: Any, seed: Any, train: Callable[[], Mapping[str, float]]) -> Scores:
        """``val`` and ``test`` of a candidate, and the ``seconds`` that its training took, whoever did it.

        Args:
            spec: The content of the candidate, plain values: equal content is one candidate.
            seed: What the randomness of its training is derived from, plain values.
            train: Trains it, where the table does not know it, and returns ``val`` and ``test``.
        """
        key = digest([spec, seed])
        if key not in self._known:
            self._read()
        if key in self._known:
            self.hits += 1
        else:
            self.misses += 1
            began = time.perf_counter()
            scores = {name: float(value) for name, value in train().items()}
            self.trainings += 1
            self._known[key] = scores | {"seconds": round(time.perf_counter() - began, 4)}
            self._append({"key": key, "spec": spec, "seed": seed, "scores": self._known[key]})
        return dict(self._known[key])

    def _read(self) -> None:
        """Take in what was added to the file since the last look; the first line of a candidate counts."""
        if self.path is None:
            return
        try:
            with self.path.open("rb") as file:
                if file.seek(0, 2) < self._offset:  # somebody has emptied or replaced it
                    self._offset = 0
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")  # another process may be at the last line just now
        except OSError:
            return
        self._offset += len(whole) + len(newline)
        for line in whole.split(b"\n") if newline else ():
            entry = _parse(line)
            if entry is None:
                self.damaged += 1
                log.warning("%s has a damaged line, which is passed over", self.path)
            elif "key" in entry:
                self._known.setdefault(entry["key"], entry["scores"])

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        from filelock import FileLock

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_suffix(".lock")), self.path.open("a+b") as file:
                line = _line(entry)
                if file.seek(0, 2) == 0:
                    line = _line({"context": self.context}) + line
                else:
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":  # a process died in the middle of its line
                        line = b"\n" + line
                file.write(line)
        except OSError as error:
            log.warning("%s cannot be written (%s): what is trained now is not kept", self.path, error.strerror)
            self.path = None


def digest(content: Any) -> str:
    """SHA-256 (16 hex digits) of plain values, independent of the order of mappings."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def source_digest(*roots: type) -> str:
    """Digest of the source files that classes come from, and of those that these take names from at their top level.

    Followed are the packages of the classes and our own.
    """
    pending = [root.__module__ for root in roots]
    followed = {name.partition(".")[0] for name in pending} | {__name__.partition(".")[0]}
    seen: dict[str, str] = {}
    while pending:
        name = pending.pop()
        module = sys.modules.get(name)
        if name in seen or name.partition(".")[0] not in followed or module is None:
            continue
        file = getattr(module, "__file__", None)
        seen[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
        for value in list(vars(module).values()):
            other = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
            if isinstance(other, str):
                pending.append(other)
    return digest(seen)


def _line(entry: Mapping[str, Any]) -> bytes:
    content = json.dumps(entry, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(content), content)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The entry of a line, ``None`` if it is damaged."""
    checksum, _, content = line.partition(b" ")
    if not content or checksum != b"%08x" % zlib.crc32(content):
        return None
    return json.loads(content)
