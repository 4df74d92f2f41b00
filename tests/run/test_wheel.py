"""The installed package: from a wheel, in a new environment, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that holds the wheel; the dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "env", with_pip=True)
    bin_folder = folder / "env" / "bin"
    python = bin_folder / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True, capture_output=True)
    (packages,) = (folder / "env" / "lib").glob("python*/site-packages")
    # A plain path entry: the .pth files of this environment, the editable install among them, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return bin_folder


def call(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "REPLICATA_DATA")}
    return subprocess.run(
        [installed / "replicata", *arguments], cwd=folder, env=clean, capture_output=True, text=True, check=False
    )


def test_a_paper_runs_from_the_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    done = call(installed, tmp_path, "run", "experiment=adaptive/mip", "--smoke")
    assert done.returncode == 0, done.stderr
    (record,) = tmp_path.rglob("run.json")
    assert json.loads(record.read_text())["status"] == "finished"
    assert json.loads(record.read_text())["git"] is None
    where = subprocess.run(
        [installed / "python", "-c", "import replicata; print(replicata.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert str(installed.parent) in where


def test_the_wheel_lists_its_papers_and_scaffolds_only_in_a_checkout(installed: Path, tmp_path: Path) -> None:
    listed = call(installed, tmp_path, "list")
    assert "adaptive/mip" in listed.stdout
    refused = call(installed, tmp_path, "new", "graph/mine")
    assert refused.returncode == 2
    assert not list(tmp_path.iterdir())
