"""Single files as their authors publish them: found, or downloaded once."""

from __future__ import annotations

import hashlib
import urllib.request
from pathlib import Path

from replicata.data.vision.images import write_whole
from replicata.errors import UserError


def published(path: str, *, root: Path, cache: Path, url: str, download: bool, digest: str = "") -> Path:
    """Where a file is: under ``root``, else under ``cache``, where it is downloaded to.

    Args:
        path: Place under both.
        root, cache: Folders of the user's data and of what Replicata fetches.
        url: Where it is published.
        download: Whether it may be fetched.
        digest: First digits of its SHA-256; none: any content will do.

    Raises:
        UserError: if it is nowhere, cannot be fetched, or is not the published one.
    """
    found = next((base / path for base in (root, cache) if (base / path).is_file()), None)
    if found is None:
        if not download:
            raise UserError(f"{root / path} not found; put the file there or set data.download=true")
        found = cache / path
        write_whole(found, _fetched(url, wanted=root / path))
    if digest and not hashlib.sha256(found.read_bytes()).hexdigest().startswith(digest):
        raise UserError(f"{found} is not the published file; replace it, or remove it to download it")
    return found


def _fetched(url: str, wanted: Path) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content: bytes = answer.read()
    except OSError as error:  # URLError and TimeoutError are ones
        reason = getattr(error, "reason", error)
        raise UserError(
            f"{wanted} not found and the download from {url} failed ({reason}); put the file there"
        ) from error
    return content
