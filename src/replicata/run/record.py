"""A run's record: ``run.json`` and the files beside it, each written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from replicata.errors import RunError, UserError

SCHEMA = 1
FILE = "run.json"


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write to a temporary name in the same folder, then rename.

    Raises:
        RunError: if the disk is full or the folder cannot be written; the old file stays.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror}; free some space or mend the folder", "disk") from error


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record of a run directory, or ``None`` where there is none.

    Raises:
        UserError: if it is damaged, or was written by a newer version.
    """
    path = directory / FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); move the run's directory away to run it again") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if not isinstance(schema, int):
        raise UserError(f"{path} is not a run record; move the run's directory away to run it again")
    if schema > SCHEMA:
        raise UserError(
            f"{path} was written by a newer Replicata (record schema {schema}, this one knows {SCHEMA});"
            " upgrade replicata, or set paths.outputs to another folder"
        )
    return record


def write_record(directory: Path, record: Mapping[str, Any]) -> None:
    write_atomic(directory / FILE, json.dumps({"schema": SCHEMA, **record}, indent=2, allow_nan=True) + "\n")


def write_tables(directory: Path, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Each table as ``tables/<name>.parquet``."""
    if not tables:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = directory / "tables"
    folder.mkdir(exist_ok=True)
    for name, rows in tables.items():
        columns = dict.fromkeys(key for row in rows for key in row)
        table = pa.table({column: [row.get(column) for row in rows] for column in columns})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_atomic(folder / f"{name}.parquet", sink.getvalue().to_pybytes())
