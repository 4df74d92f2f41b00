"""Papers with their studies: a row of the board for each, and all that the page of one says.

    library = Library(dirs, results, index)
    library.board()                      # BoardRow of every paper, those that have changed put together anew
    library.study("graph/dagnn")         # its StudySummary: from records, else from committed results

Verdicts are those of :mod:`replicata.study.claims` on the records, or those that are committed. A test that calls a
function of the paper's own file cannot be made here, where no method is imported: its claim has the committed verdict.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from replicata.board.dashboard.index import GONE, Index, stamp_of
from replicata.board.samples import Curve, collect, lines
from replicata.board.summary import StudySummary, summarise
from replicata.errors import UserError
from replicata.run import compose as composing
from replicata.study import verdicts
from replicata.study.claims import Verdict
from replicata.study.index import FILE
from replicata.study.index import Index as StudyIndex
from replicata.study.parse import parse
from replicata.study.schema import Claim, Figure, Study
from replicata.study.table import Table, read

NOT_RUN = "not run"
WORDS = ("holds", "fails", "inconclusive", NOT_RUN)
ELSEWHERE = "its test calls a function of the paper's file, which the dashboard does not import"
MOST_CURVES = 4  # metrics that a paper's page draws
KEPT = 24  # studies kept in memory

T = TypeVar("T")


@dataclass(frozen=True)
class ClaimRow:
    """A claim as the board lists it."""

    id: str
    statement: str
    verdict: str
    role: str = "claim"


@dataclass(frozen=True)
class BoardRow:
    """One paper on the board.

    Attributes:
        seconds: Computing of all its runs together: the laptop cost.
        ended: When the last of its runs ended.
        runs: Number of its runs by state.
        source: ``records``, ``results`` or nothing.
        problem: What could not be read.
        committed: Claims whose committed verdict is another.
    """

    name: str
    title: str
    venue: str = ""
    url: str = ""
    claims: tuple[ClaimRow, ...] = ()
    seconds: float = 0.0
    ended: str = ""
    runs: Mapping[str, int] = field(default_factory=dict)
    source: str = ""
    reconstructed: bool = False
    problem: str = ""
    committed: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        return self.name.partition("/")[0]

    def count(self, verdict: str) -> int:
        """How many of its claims came out so; reports and controls are not counted."""
        return sum(claim.verdict == verdict for claim in self.claims if claim.role == "claim")

    @property
    def year(self) -> str:
        """The year that its venue names."""
        words = [word.strip("(),") for word in self.venue.split()]
        return next((word for word in reversed(words) if word.isdigit() and len(word) == 4), "")


class Library:
    """Papers of the config folders.

    Args:
        dirs: Folders of config groups.
        results: Folder of committed results.
        index: The runs.
        functions: Whether functions of the papers' files may be imported and called.
    """

    def __init__(self, dirs: Sequence[Path], results: Path, index: Index, *, functions: bool = False) -> None:
        self.dirs, self.results, self.index, self.functions = list(dirs), results, index, functions
        self._kept: OrderedDict[tuple[str, str], tuple[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """All papers."""
        return [name for name, _ in composing.experiments(self.dirs)]

    # The board -----------------------------------------------------------------------------

    def board(self, *, wait: bool = True) -> list[BoardRow]:
        """A row for every paper. Rows are kept in the index until something that they depend on changes.

        Args:
            wait: Whether rows that have changed are put together now; otherwise they are what they were before, or
                what is committed, until somebody waits for them.
        """
        kept = {row["name"]: row for row in self.index.rows("SELECT * FROM boards")}
        rows = []
        for name in self.names():
            stamp = self.stamp(name)
            found = kept.get(name)
            if found is not None and found["stamp"] == stamp:
                rows.append(_restored(json.loads(found["content"])))
                continue
            if not wait:
                rows.append(_restored(json.loads(found["content"])) if found is not None else self._committed(name))
                continue
            row = self._row(name)
            rows.append(row)
            self.index.keep_board(name, stamp, json.dumps(asdict(row)))
        return rows

    def stamp(self, name: str) -> str:
        """Changes when something changes that a study is put together from."""
        configs = [stamp_of(str(path)) for path in self._files(name)]
        (newest,) = self.index.rows(
            "SELECT count(*), max(CASE WHEN status <> 'running' THEN version END) FROM runs WHERE name = ?", [name]
        )
        outputs = stamp_of(str(self.index.outputs / name / FILE))
        return " ".join(
            [*configs, stamp_of(str(self.results_of(name))), outputs, *map(str, newest), str(self.functions)]
        )

    def _files(self, name: str) -> list[Path]:
        """The configs of a paper: its own, and those of the same file name that it may derive from."""
        own = composing.find("experiment", name, self.dirs)
        base = composing.find("experiment", name.removesuffix("_paper"), self.dirs)
        return list(dict.fromkeys(path for path in (own, base) if path is not None))

    def results_of(self, name: str) -> Path:
        return self.results / f"{name}.json"

    def _committed(self, name: str) -> BoardRow:
        """What the config and the results file say, without a look at the runs."""
        try:
            paper = self.described(name).get("paper") or {}
            study = self.parsed(name)
            results = self.results_of(name)
            committed = verdicts.read(results) if results.is_file() else None
        except Exception:  # who waits for the row is told
            return BoardRow(name, name)
        said = {one["id"]: one["verdict"] for one in committed["claims"]} if committed else {}
        claims = [
            ClaimRow(c.id, c.statement, said.get(c.id, NOT_RUN), c.role) for c in (decidable(study) if study else ())
        ]
        return BoardRow(
            name,
            str(paper.get("title") or name),
            str(paper.get("venue") or ""),
            str(paper.get("url") or ""),
            tuple(claims),
            float(committed["seconds"]) if committed else 0.0,
            str(committed["ended"]) if committed else "",
            reconstructed=bool(paper.get("reconstructed")),
        )

    def _row(self, name: str) -> BoardRow:
        try:
            paper = self.described(name).get("paper") or {}
        except Exception as error:  # a config that is being written must not take the board with it
            return BoardRow(name, name, problem=f"its config cannot be read ({' '.join(str(error).split())[:200]})")
        row = BoardRow(
            name=name,
            title=str(paper.get("title") or name),
            venue=str(paper.get("venue") or ""),
            url=str(paper.get("url") or ""),
            reconstructed=bool(paper.get("reconstructed")),
        )
        study = None
        try:
            study = self.parsed(name)
            if study is None:
                return row
            summary = self.study(name)
        except UserError as error:
            claims = [ClaimRow(c.id, c.statement, NOT_RUN, c.role) for c in decidable(study)] if study else []
            return replace(row, problem=str(error), claims=tuple(claims))
        if summary is None:
            claims = [ClaimRow(claim.id, claim.statement, NOT_RUN, claim.role) for claim in decidable(study)]
            return replace(row, claims=tuple(claims))
        return replace(
            row,
            claims=tuple(ClaimRow(c.id, c.statement, v.verdict if v else NOT_RUN, c.role) for c, v in decided(summary)),
            seconds=summary.seconds,
            ended=summary.ended,
            runs=dict(summary.runs),
            source="results" if summary.source == str(self.results_of(name)) else "records",
            reconstructed=summary.reconstructed,
            committed=tuple(summary.committed),
        )

    # One paper -----------------------------------------------------------------------------

    def described(self, name: str) -> dict[str, Any]:
        """What its config says, nothing composed."""
        return self._keep("described", name, lambda: composing.described(name, self.dirs))

    def parsed(self, name: str) -> Study | None:
        """Its study, as the config has it."""
        node = self.described(name).get("study")
        return self._keep("parsed", name, lambda: parse(node, name)) if node else None

    def study(self, name: str) -> StudySummary | None:
        """The study in figures; ``None`` where nobody has run it."""
        return self._keep("study", name, lambda: self._summarise(name))

    def _summarise(self, name: str) -> StudySummary | None:
        if not self.described(name).get("study"):
            return None
        results = self.results_of(name)
        try:
            return self._summary(name, results)
        except UserError:
            raise
        except Exception as error:  # a record that is JSON but no record must not take the page with it
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise UserError(f"the runs of {name} cannot be put together ({said})") from error

    def _summary(self, name: str, results: Path) -> StudySummary | None:
        summary = summarise(name, self.dirs, self.index.outputs, results, None if self.functions else _refuse)
        if summary is None or summary.source == str(results):
            return summary
        summary = replace(summary, runs=self._alive(name, summary.runs))
        return summary if self.functions else _without_functions(summary, results)

    def _alive(self, name: str, states: Mapping[str, int]) -> Mapping[str, int]:
        """The states of a study's runs, those whose process is gone counted as interrupted."""
        sql = "SELECT count(DISTINCT path) FROM runs JOIN planned ON directory = path WHERE study = ? AND problem = ?"
        gone = self.index.rows(sql, [name, GONE])[0][0]
        moved = {**states, "running": states.get("running", 0) - gone}
        moved["interrupted"] = moved.get("interrupted", 0) + gone
        return {state: count for state, count in moved.items() if count > 0}

    def table(self, name: str) -> Table | None:
        """The runs that its study plans."""
        study = self.parsed(name)
        index = StudyIndex.read(self.index.outputs / name / FILE)
        if study is None or index is None:
            return None
        own = [e for e in index.entries if e.arm in study.arms and e.levels in study.arms[e.arm].cells()]
        return read(study, [(entry.spec, entry.directory) for entry in own], _refuse)

    def curves(self, name: str) -> list[tuple[str, list[tuple[str, list[Curve], list[str]]]]]:
        """For the metrics that its runs log over epochs: at every combination of levels, a curve for each arm."""
        return self._keep("curves", name, lambda: self._curves(name))

    def _curves(self, name: str) -> list[tuple[str, list[tuple[str, list[Curve], list[str]]]]]:
        table = self.table(name)
        study = self.parsed(name)
        if table is None or study is None:
            return []
        drawn = []
        for metric in curve_metrics(study, table)[:MOST_CURVES]:
            facets = []
            for cell in dict.fromkeys(cell for arm in study.arms.values() for cell in arm.cells()):
                arms = tuple(arm.name for arm in study.arms.values() if cell in arm.cells())
                figure = Figure("curves", "curve", metric, arms, where=dict(cell), metric=metric, x="epoch")
                samples = collect(figure, table)
                found = lines(samples) if samples.found else []
                if found:
                    facets.append((", ".join(map("=".join, cell)), found, list(dict.fromkeys(samples.notes))))
            if facets:
                drawn.append((metric, facets))
        return drawn

    def _keep(self, kind: str, name: str, make: Callable[[], T]) -> T:
        """What ``make`` returns, kept as long as nothing that it depends on changes."""
        stamp = self.stamp(name)
        with self._lock:
            kept = self._kept.get((kind, name))
            if kept is not None and kept[0] == stamp:
                self._kept.move_to_end((kind, name))
                return kept[1]
        made = make()
        with self._lock:
            self._kept[kind, name] = (stamp, made)
            while len(self._kept) > 4 * KEPT:
                self._kept.popitem(last=False)
        return made


def _restored(content: Mapping[str, Any]) -> BoardRow:
    claims = tuple(ClaimRow(**claim) for claim in content["claims"])
    return BoardRow(**{**content, "claims": claims, "committed": tuple(content["committed"])})


def decidable(study: Study) -> list[Claim]:
    """The claims that are decided at the study's scale."""
    return [claim for claim in study.claims if claim.scale in (None, study.scale)]


def decided(summary: StudySummary) -> list[tuple[Claim, Verdict | None]]:
    """The claims of the config with their verdicts, ``None`` where there is none."""
    found = {verdict.id: verdict for verdict in summary.verdicts}
    return [(claim, found.get(claim.id)) for claim in decidable(summary.study)]


def curve_metrics(study: Study, table: Table) -> list[str]:
    """The metrics that runs log over epochs, validation first; those that most of the arms have."""
    counts: dict[str, int] = {}
    for arm in study.arms:
        row = next((row for row in table if row.arm == arm and row.status == "finished" and row.panel is None), None)
        try:
            curves = row.curves if row is not None else {}
        except UserError:
            continue
        for metric, points in curves.items():
            counts[metric] = counts.get(metric, 0) + (len(points) > 1)
    split = ["val", "train", "test"]

    def rank(metric: str) -> tuple[int, bool, int]:
        head, _, tail = metric.partition("/")
        return split.index(head) if head in split else 9, tail == "loss", -counts[metric]

    return sorted((metric for metric, count in counts.items() if count), key=rank)


# Functions of papers ------------------------------------------------------------------------


def _refuse(name: str) -> Callable[..., Any]:
    """Stands for a function of the paper's file."""

    def refused(*_: Any) -> float:
        raise LookupError(ELSEWHERE)

    return refused


def calls_function(study: Study, claim: Claim) -> bool:
    """Whether a claim's tests call a function of the paper's file."""
    for test in (*claim.tests, *claim.given):
        derived = [study.derived.get(str(name)) for name in (test.metric, test.x, test.y)]
        deciding = [study.derived.get(str(study.groups[name].by)) for name in test.arms if name in study.groups]
        if test.kind == "statistic" or any(one is not None and one.function for one in (*derived, *deciding)):
            return True
    return False


def _without_functions(summary: StudySummary, results: Path) -> StudySummary:
    """The summary with the committed verdicts of the claims whose tests call functions."""
    study = summary.study
    named = {claim.id for claim in study.claims if calls_function(study, claim)}
    if not named:
        return summary
    try:
        committed = {verdict.id: verdict for verdict in verdicts.restore(verdicts.read(results))}
    except UserError:
        committed = {}
    kept = []
    for verdict in summary.verdicts:
        if verdict.id not in named:
            kept.append(verdict)
        elif verdict.id in committed:
            before = committed[verdict.id]
            note = f"as it is committed; {ELSEWHERE}"
            kept.append(replace(before, reason="; ".join(filter(None, [before.reason, note]))))
    left = [verdict.id for verdict in summary.verdicts if verdict.id in named and verdict.id not in committed]
    return replace(
        summary,
        verdicts=kept,
        unclaimed=[*summary.unclaimed, *left],
        committed={name: word for name, word in summary.committed.items() if name not in named},
    )
