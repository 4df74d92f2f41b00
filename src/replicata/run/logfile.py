"""A run's log file."""

from __future__ import annotations

import logging
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)


def quiet_lightning() -> None:
    """Lightning's own lines go where all logging goes, not to the terminal."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        own = logging.getLogger(name)
        own.handlers.clear()
        own.propagate = True


@contextmanager
def logfile(directory: Path) -> Iterator[None]:
    """All logging and warnings of the run go to ``log.txt``; the terminal stays for progress and results."""
    handler = logging.FileHandler(directory / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    log.info("python %s, %s", platform.python_version(), " ".join(sys.argv))
    started = time.monotonic()
    try:
        yield
    finally:
        log.info("%.1f seconds", time.monotonic() - started)
        logging.captureWarnings(False)
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
