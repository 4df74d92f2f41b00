"""The dashboard's pages as files, which need no server.

    write_site(settings, folder)                  # index.html, papers/, runs/, sweeps/, static/, files/
    write_readme(Path("README.md"), rows)         # the board's table, between its markers

Links are relative, so that the folder can be opened from a disk, moved, or published under any address. What needs a
server is left out of the pages: live updates, and the comparison of chosen runs.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from replicata.board.dashboard.app import Settings
from replicata.board.dashboard.pages import HERE, Pages
from replicata.board.dashboard.papers import WORDS, BoardRow, Library
from replicata.board.dashboard.query import RunQuery
from replicata.board.dashboard.repeat import Repeater
from replicata.board.dashboard.sweeps import sweeps
from replicata.board.report import duration_text
from replicata.errors import UserError
from replicata.run.record import write_atomic

if TYPE_CHECKING:
    from replicata.board.dashboard.index import Index

BEGIN, END = "<!-- board: begin -->", "<!-- board: end -->"
PER_PAGE = 500  # runs in a table


@dataclass
class FileLinks:
    """Addresses relative to one page.

    Attributes:
        root: From the page up to the folder of the site.
        sweep_files: By query the page of a sweep.
        wanted: Files below the outputs folder that pages show.
    """

    root: str = ""
    experiment: str = ""
    sweep_files: dict[str, str] = field(default_factory=dict)
    wanted: set[str] = field(default_factory=set)
    live: bool = False

    def board(self) -> str:
        return f"{self.root}index.html"

    def paper(self, name: str) -> str:
        return f"{self.root}papers/{quote(name)}.html"

    def runs(self, query: str = "") -> str:
        said = query.removeprefix("experiment=") if query.startswith("experiment=") else ""
        return f"{self.root}experiments/{said}.html" if said else f"{self.root}runs.html"

    def runs_page(self, number: int) -> str:
        stem = f"experiments/{quote(self.experiment)}" if self.experiment else "runs"
        return f"{self.root}{stem}{'' if number == 1 else f'-{number}'}.html"

    def run(self, path: str) -> str:
        return f"{self.root}runs/{quote(path)}.html"

    def compare(self, paths: Sequence[str] = ()) -> str:
        return self.runs()

    def sweeps(self) -> str:
        return f"{self.root}sweeps.html"

    def sweep(self, query: str) -> str:
        return f"{self.root}{self.sweep_files.get(query, 'sweeps.html')}"

    def asset(self, name: str) -> str:
        return f"{self.root}static/{name}"

    def file(self, path: str) -> str:
        self.wanted.add(path)
        return f"{self.root}files/{quote(path)}"


def write_site(settings: Settings, folder: Path, *, functions: bool = True) -> list[BoardRow]:
    """Write all pages; the rows of the board.

    Args:
        settings: What is shown.
        folder: Where the pages go; pages of before that are there no longer are removed.
        functions: Whether functions of the papers' files are called where a verdict needs them.

    Raises:
        UserError: if the folder holds something else.
    """
    _may_write(folder, settings)
    index = settings.index()
    index.refresh()
    library = Library(settings.dirs, settings.results, index, functions=functions)
    site = _Site(folder, library, index, Repeater(settings.dirs, index))
    try:
        site.write()
    except sqlite3.DatabaseError:
        index.mend()
        site.write()
    return library.board()


def _may_write(folder: Path, settings: Settings) -> None:
    """Refuse a folder that is no site: its files would be removed."""
    mark = folder / MARK
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not mark.is_file())):
        raise UserError(f"--html {folder}: this is no empty folder and no site of before; choose another one")
    outputs = settings.outputs.expanduser().resolve()
    if folder.resolve() == outputs or folder.resolve() in outputs.parents:
        raise UserError(f"--html {folder}: the folder of runs is in there; choose another one")


MARK = ".replicata-site"


class _Site:
    """Writes pages below a folder."""

    def __init__(self, folder: Path, library: Library, index: Index, repeater: Repeater) -> None:
        self.folder, self.library, self.index = folder, library, index
        self.links = FileLinks()
        self.pages = Pages(library, index, repeater, self.links)
        self.written: set[Path] = set()

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / MARK).touch()
        listed = sweeps(self.index)
        for at, one in enumerate(listed):
            self.links.sweep_files[one.query.address()] = f"sweeps/{at + 1}.html"
        self._page("index.html", self.pages.board)
        for name in self.library.names():
            self._page(f"papers/{name}.html", lambda name=name: self.pages.paper(name))
        self._tables("runs", "")
        for row in self.index.rows("SELECT DISTINCT name FROM runs"):
            self._tables(f"experiments/{row['name']}", row["name"])
        for row in self.index.rows("SELECT path FROM runs"):
            self._page(f"runs/{row['path']}.html", lambda path=row["path"]: self.pages.run(path))
        self._page("sweeps.html", self.pages.sweeps)
        for one in listed:
            self._page(
                self.links.sweep_files[one.query.address()],
                lambda one=one: self.pages.sweep(one.query, title=one.title),
            )
        for name in ("style.css", "app.js", "theme.js", "icon.svg"):
            self._keep(f"static/{name}", HERE / "static" / name)
        for path in sorted(self.links.wanted):
            self._keep(f"files/{path}", self.index.outputs / path)
        self._sweep_up()

    def _tables(self, stem: str, experiment: str) -> None:
        """The table of runs, in as many files as it takes."""
        self.links.experiment = experiment
        where = ("WHERE name = ?", [experiment]) if experiment else ("", [])
        (count,) = self.index.rows(f"SELECT count(*) FROM runs {where[0]}", where[1])[0]
        for number in range(1, max(1, -(-count // PER_PAGE)) + 1):
            asked = RunQuery(experiment=experiment, page=number)
            name = f"{stem}{'' if number == 1 else f'-{number}'}.html"
            self._page(name, lambda asked=asked: self.pages.runs(asked, limit=PER_PAGE))

    def _page(self, name: str, make: object) -> None:
        self.links.root = "../" * name.count("/")
        assert callable(make)
        self._write(self.folder / name, make())

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
        self.written.add(path)

    def _keep(self, name: str, source: Path) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
        self.written.add(path)

    def _sweep_up(self) -> None:
        """Remove pages of before."""
        for parent, _, files in os.walk(self.folder, topdown=False):
            for name in files:
                path = Path(parent) / name
                if path not in self.written and name != MARK:
                    path.unlink()
            if not os.listdir(parent):
                os.rmdir(parent)


# The README -----------------------------------------------------------------------------------


def board_markdown(rows: Sequence[BoardRow]) -> str:
    """The board's summary as a Markdown table."""
    head = ["paper", "venue", *WORDS, "computing"]
    lines = [head, ["---", "---", *["---:"] * (len(WORDS) + 1)]]
    for row in rows:
        title = row.title.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]").replace("<", "&lt;")
        name = f"[{title}]({row.url}) `{row.name}`" if row.url else f"{title} `{row.name}`"
        counts = [str(row.count(word) or "") for word in WORDS]
        lines.append([name, row.venue.replace("|", "\\|"), *counts, duration_text(row.seconds) if row.seconds else ""])
    totals = [str(sum(row.count(word) for row in rows)) for word in WORDS]
    lines.append([f"**{len(rows)} papers**", "", *totals, duration_text(sum(row.seconds for row in rows))])
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def write_readme(path: Path, rows: Sequence[BoardRow]) -> bool:
    """Put the board's table between the markers of a Markdown file; whether that changed it.

    Raises:
        UserError: if there is no such file, or not one marker of each kind, in order.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"--readme {path}: {error.strerror}") from None
    start, end = text.find(BEGIN), text.find(END)
    if text.count(BEGIN) != 1 or text.count(END) != 1 or end < start:
        raise UserError(f"--readme {path}: write {BEGIN} and, below it, {END} where the table is to be, once each")
    fresh = f"{text[: start + len(BEGIN)]}\n\n{board_markdown(rows)}\n\n{text[end:]}"
    if fresh != text:
        write_atomic(path, fresh)
    return fresh != text
