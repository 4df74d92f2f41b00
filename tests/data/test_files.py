"""Published files: found, downloaded once, and known by their digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from replicata.data.files import published
from replicata.errors import UserError


def test_the_users_folder_comes_before_the_cache_and_the_cache_before_the_network(tmp_path: Path) -> None:
    source = tmp_path / "source.txt"
    source.write_text("published")
    root, cache = tmp_path / "root", tmp_path / "cache"
    folders = {"root": root, "cache": cache, "url": source.as_uri()}
    with pytest.raises(UserError, match=r"a\.txt not found; put the file there or set data\.download=true"):
        published("set/a.txt", **folders, download=False)
    assert not cache.exists(), "nothing is left behind"
    assert published("set/a.txt", **folders, download=True).read_text() == "published"
    source.unlink()
    assert published("set/a.txt", **folders, download=False) == cache / "set/a.txt"
    (root / "set").mkdir(parents=True)
    (root / "set/a.txt").write_text("own")
    assert published("set/a.txt", **folders, download=True) == root / "set/a.txt"
    with pytest.raises(UserError, match=r"b\.txt not found and the download from .* failed .*; put the file there"):
        published("set/b.txt", **folders, download=True)
    assert [path.name for path in (cache / "set").iterdir()] == ["a.txt"]


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("whole")
    digest = hashlib.sha256(b"whole").hexdigest()[:16]
    folders = {"root": tmp_path, "cache": tmp_path, "url": "", "download": False}
    assert published("a.txt", **folders, digest=digest) == tmp_path / "a.txt"  # type: ignore[arg-type]
    (tmp_path / "a.txt").write_text("cut")
    with pytest.raises(UserError, match="is not the published file; replace it, or remove it"):
        published("a.txt", **folders, digest=digest)  # type: ignore[arg-type]
