"""``replicata dashboard``, and the part of ``replicata report`` that writes pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from replicata.errors import UserError, nearest
from replicata.run import compose as composing

if TYPE_CHECKING:
    from replicata.board.dashboard.app import Settings

USAGE = "usage: replicata dashboard [--port N] [paths.outputs=DIR] [paths.cache=DIR] [--config-dir DIR]"
PAGES_USAGE = "usage: replicata report --html DIR [--readme FILE] [paths.outputs=DIR] [--config-dir DIR]"
PLACES = ("paths.outputs", "paths.cache")


def dashboard(arguments: Sequence[str]) -> None:
    """Serve the dashboard on this machine."""
    if any(word in ("-h", "--help") for word in arguments):
        print(f"{USAGE}\n\nA page about papers, runs and sweeps on 127.0.0.1 that follows runs while they go.")
        return
    dirs = composing.search_dirs(_folders(arguments))
    said = _read(arguments, ("--port",), USAGE)
    port = said.get("--port")
    if port is not None and not (port.isdigit() and int(port) < 65536):
        raise UserError(f"--port must be a number from 0 to 65535, got {port!r}")
    from replicata.board.dashboard.app import serve

    serve(_settings(dirs, said), None if port is None else int(port))


def report_pages(arguments: Sequence[str]) -> None:
    """``replicata report --html DIR``: the same pages as files, and the board's table in a README."""
    dirs = composing.search_dirs(_folders(arguments))
    said = _read(arguments, ("--html", "--readme"), PAGES_USAGE)
    if "--html" not in said:
        raise UserError(f"--readme needs --html; {PAGES_USAGE}")
    from replicata.board.dashboard.site import write_readme, write_site

    folder = Path(said["--html"]).expanduser()
    rows = write_site(_settings(dirs, said), folder)
    print(f"pages: {folder / 'index.html'}")
    if "--readme" in said:
        readme = Path(said["--readme"])
        print(f"{readme}: {'the board is new' if write_readme(readme, rows) else 'the board is what it was'}")


def _read(arguments: Sequence[str], flags: Sequence[str], usage: str) -> dict[str, str]:
    """Flags and folders of a command line."""
    said: dict[str, str] = {}
    words = _without_folders(arguments)
    while words:
        word = words.pop(0)
        flag, equals, value = word.partition("=")
        if flag in flags:
            value = value if equals else words.pop(0) if words else ""
        elif flag not in PLACES or not equals:
            raise UserError(f"{word} is not understood; {nearest(flag, [*flags, *PLACES, '--config-dir'])}; {usage}")
        if not value:
            raise UserError(f"{flag} needs a value; {usage}")
        said[flag] = value
    return said


def _settings(dirs: Sequence[Path], said: Mapping[str, str]) -> Settings:
    """What to show, with the folders of ``paths/default.yaml`` where none are named."""
    from replicata.board.dashboard.app import Settings

    usual = _paths(dirs)
    outputs, cache = (Path(said.get(f"paths.{key}") or usual[key]).expanduser() for key in ("outputs", "cache"))
    return Settings(outputs, dirs, Path.cwd() / "results", cache)


def _paths(dirs: Sequence[Path]) -> dict[str, str]:
    from omegaconf import OmegaConf

    path = composing.find("paths", "default", dirs)
    node = OmegaConf.create(composing.read(path)) if path is not None else OmegaConf.create({})
    return {
        key: str(node.get(key) or fallback)
        for key, fallback in (("outputs", "outputs"), ("cache", "~/.cache/replicata"))
    }


def _folders(arguments: Sequence[str]) -> list[Path]:
    from replicata.run.app import config_dirs

    return config_dirs(arguments)


def _without_folders(arguments: Sequence[str]) -> list[str]:
    from replicata.board.command_line import config_dir_words

    return config_dir_words(arguments)[0]
