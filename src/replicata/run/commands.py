"""The commands beside ``run``: resume, verify, list, show, new, doctor."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from replicata.errors import RunError, UserError, nearest
from replicata.run import compose as composing


def resume(arguments: Sequence[str]) -> None:
    """Go on with an interrupted run."""
    directory = _run_directory(arguments, "resume")
    from omegaconf import DictConfig, OmegaConf

    from replicata.run.identity import Identity
    from replicata.run.job import report
    from replicata.run.record import read_record
    from replicata.run.runner import run_in

    found = cast("dict[str, Any]", read_record(directory))
    if found["status"] == "finished":
        raise UserError(f"{directory} is finished; `replicata run ... force=true` repeats it")
    config = cast(DictConfig, OmegaConf.load(directory / "config.yaml"))
    report(run_in(config, Identity(found["name"], found["hash"], found["seed"]), directory))


def verify(arguments: Sequence[str]) -> None:
    """Repeat a finished run in a scratch folder and compare its metrics bit for bit."""
    directory = _run_directory(arguments, "verify")
    from omegaconf import DictConfig, OmegaConf

    from replicata.run.identity import Identity
    from replicata.run.record import read_record
    from replicata.run.runner import run_in

    found = cast("dict[str, Any]", read_record(directory))
    if found["status"] != "finished":
        raise UserError(
            f"{directory} is not finished (it is {found['status']}); finish it with `replicata resume` first"
        )
    config = cast(DictConfig, OmegaConf.load(directory / "config.yaml"))
    identity = Identity(found["name"], found["hash"], found["seed"])
    with tempfile.TemporaryDirectory(prefix="replicata-verify-") as scratch:
        config.paths.outputs = scratch
        config.logger = {name: node for name, node in config.logger.items() if name == "csv"}
        again = run_in(config, identity, identity.directory(scratch)).record["metrics"]
    before = found["metrics"]
    different = [name for name in sorted({*before, *again}) if before.get(name) != again.get(name)]
    if different:
        pairs = "; ".join(f"{name} {before.get(name)} then, {again.get(name)} now" for name in different)
        raise RunError(f"{directory}: {len(different)} of {len(before)} metrics differ: {pairs}", "not_reproduced")
    print(f"reproduced: all {len(before)} metrics of {directory} are bit-identical")


def _run_directory(arguments: Sequence[str], command: str) -> Path:
    if len(arguments) != 1:
        raise UserError(f"usage: replicata {command} <run directory>")
    directory = Path(arguments[0])
    if not (directory / "run.json").is_file() or not (directory / "config.yaml").is_file():
        raise UserError(f"{directory} is no run directory: it has no run.json and config.yaml")
    return directory


# The papers ---------------------------------------------------------------------------------


def list(arguments: Sequence[str]) -> None:
    """The papers, by family."""
    extra, rest = _extra_dirs(arguments)
    if len(rest) > 1:
        raise UserError("usage: replicata list [family]")
    dirs = composing.search_dirs(extra)
    known = dict(composing.experiments(dirs))
    families = sorted({name.partition("/")[0] for name in known})
    if rest and rest[0] not in families:
        raise UserError(f"there is no family {rest[0]!r}; {nearest(rest[0], families)}")
    chosen = {name: path for name, path in known.items() if not rest or name.startswith(rest[0] + "/")}
    width = max((len(name) for name in chosen), default=0)
    for name, path in chosen.items():
        paper = composing.read(path).get("paper") or {}
        venue = f" ({paper['venue']})" if paper.get("venue") else ""
        print(f"{name:<{width}}  {paper.get('title', '')}{venue}".rstrip())


def show(arguments: Sequence[str]) -> None:
    """One paper: what it claims, the arms, and how to run it."""
    extra, rest = _extra_dirs(arguments)
    if len(rest) != 1:
        raise UserError("usage: replicata show <family>/<slug>")
    dirs = composing.search_dirs(extra)
    path = composing.find("experiment", rest[0], dirs)
    if path is None:
        known = [name for name, _ in composing.experiments(dirs)]
        raise UserError(f"there is no experiment {rest[0]!r}; {nearest(rest[0], known)}")
    content = composing.read(path)
    paper, study = content.get("paper") or {}, content.get("study") or {}
    print(paper.get("title", rest[0]))
    print("  ".join(str(paper[key]) for key in ("venue", "url", "code") if paper.get(key)))
    for entry in content.get("defaults") or []:
        if isinstance(entry, dict):
            for group, choice in entry.items():
                print(f"  {group.removeprefix('override ').lstrip('/')}: {choice}")
    _show_study(study)
    print("\nrun it")
    print(f"  replicata run experiment={rest[0]}            one run of the method")
    print(f"  replicata run experiment={rest[0]} --smoke    the same in seconds")
    if composing.find("experiment", f"{rest[0]}_paper", dirs):
        print(f"  replicata run experiment={rest[0]}_paper      the paper's own scale")


def _show_study(study: dict[str, Any]) -> None:
    arms = study.get("arms") or {}
    if arms:
        print(f"\narms ({study.get('seeds', 1)} seeds)")
        width = max(len(name) for name in arms)
        for name, arm in arms.items():
            overrides = arm.get("overrides", []) if isinstance(arm, dict) else arm
            print(f"  {name:<{width}}  {' '.join(map(str, overrides or []))}".rstrip())
    for name, levels in (study.get("factors") or {}).items():
        print(f"\nfactor {name}: {', '.join(map(str, levels))}")
    if study.get("claims"):
        print("\nclaims")
        for claim in study["claims"]:
            head = f"  {claim['id']}: "
            print(textwrap.fill(f"{head}{claim.get('statement', '')}", 110, subsequent_indent="    "))


def _extra_dirs(arguments: Sequence[str]) -> tuple[Sequence[Path], Sequence[str]]:
    from replicata.run.app import config_dirs

    rest, skip = [], False
    for word in arguments:
        if skip:
            skip = False
        elif word in ("--config-dir", "-cd"):
            skip = True
        elif not word.startswith(("--config-dir=", "-cd=")):
            if word.startswith("-"):
                raise UserError(f"{word} is no option here; {nearest(word, ['--config-dir'])}")
            rest.append(word)
    return config_dirs(arguments), rest


# A new paper --------------------------------------------------------------------------------

METHOD = '''r"""{title}.

<authors>, <venue>. <link>

<The idea in a few lines.>

.. math::
    \\ell = -\\log p_\\theta(y \\mid x)    \\quad (1)

Departures from the paper: <what and why>.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from replicata.data.loaders import Batch
from replicata.tasks.supervised import Classification


class {name}(Classification):
    r"""<What it does.>

    Args:
        weight: <meaning; source of the default>.
        **task: see :class:`~replicata.tasks.supervised.Classification`.

    Raises:
        ValueError: if ``weight`` is negative.
    """

    def __init__(self, weight: float = 1.0, **task: Any) -> None:
        if weight < 0:
            raise ValueError(f"method.weight must be >= 0, got {{weight}}")
        super().__init__(**task)
        self.weight = weight

    def objective(self, batch: Batch, output: Tensor) -> Tensor | Mapping[str, Tensor]:
        """Eq. (1)."""
        return {{"nll": self.weight * super().objective(batch, output)}}  # type: ignore[operator]
'''

METHOD_CONFIG = """_target_: replicata.methods.{family}.{slug}.{name}
num_classes: ${{data.num_classes}}
weight: 1.0
"""

EXPERIMENT = """# @package _global_
# {title}: <what is tested>.
#   replicata run experiment={family}/{slug}        <time> on <machine>
# Outcome: not yet run.
defaults:
  - override /data: vision/digits
  - override /model: mlp
  - override /method: {family}/{slug}

paper: {{title: "{title}", venue: "<venue>", url: "<link>"}}
trainer: {{max_epochs: 10}}
smoke: [trainer.max_epochs=1]

study:
  seeds: 5
  arms:
    {slug}: []
    baseline: [method=tasks/classification]
  claims:
    - id: better
      statement: <The paper's statement.>
      paper: {{where: "<table>"}}
      test: {{kind: greater, metric: test/acc, arm: {slug}, than: baseline}}
"""

PAPER = """# @package _global_
# {title} at the paper's own scale.
defaults:
  - {family}/{slug}
  - _self_
trainer: {{max_epochs: 100}}
"""

TEST = '''"""Fidelity checks of {slug}: what only the right method satisfies."""

import pytest

from replicata.methods.{family}.{slug} import {name}


def test_a_negative_weight_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="method.weight"):
        {name}(weight=-1.0, num_classes=2)
'''


def new(arguments: Sequence[str]) -> None:
    """Write the files of a new paper into this checkout."""
    if len(arguments) != 1 or arguments[0].count("/") != 1:
        raise UserError("usage: replicata new <family>/<slug>")
    family, slug = arguments[0].split("/")
    if not (family.isidentifier() and slug.isidentifier() and arguments[0] == arguments[0].lower()):
        raise UserError(f"{arguments[0]}: family and slug must be lower-case Python names, like graph/dagnn")
    root = composing.config_dir().parent
    if not (root / "src" / "replicata").is_dir():
        raise UserError("`replicata new` works in a checkout; elsewhere put your method into a package of your own")
    fill = {"family": family, "slug": slug, "title": slug.replace("_", " "), "name": slug.title().replace("_", "")}
    files = {
        root / "src/replicata/methods" / family / f"{slug}.py": METHOD,
        root / "configs/method" / family / f"{slug}.yaml": METHOD_CONFIG,
        root / "configs/experiment" / family / f"{slug}.yaml": EXPERIMENT,
        root / "configs/experiment" / family / f"{slug}_paper.yaml": PAPER,
        root / "tests/methods" / family / f"test_{slug}.py": TEST,
    }
    present = [path for path in files if path.exists()]
    if present:
        raise UserError(f"{present[0]} exists already; choose another slug")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(**fill))
        print(f"wrote {path}")
    package = root / "src/replicata/methods" / family / "__init__.py"
    package.touch()
    print(f"next: fill in the method, then `replicata run experiment={family}/{slug} --smoke`")


# The machine --------------------------------------------------------------------------------


def doctor(arguments: Sequence[str]) -> None:
    """Versions, devices, threads, data and logins."""
    extra, rest = _extra_dirs(arguments)
    if rest:
        raise UserError("usage: replicata doctor")
    import torch

    from replicata.run.environment import hardware, versions
    from replicata.run.wandb_logger import wandb_login

    machine = hardware()
    config = composing.compose([], extra)
    print("versions   " + ", ".join(f"{name} {version}" for name, version in versions().items()))
    chip = f"{machine['processor']} ({machine['instructions']})"
    print(f"machine    {chip}, {machine['cores']} cores, {machine['memory_gb']} GB")
    gpus = ", ".join(machine["gpus"]) or "none"
    print(f"devices    GPUs: {gpus}; Apple GPU: {'yes' if torch.backends.mps.is_available() else 'no'}")
    print(f"threads    {config.threads} for a run (threads=...), {torch.get_num_threads()} is torch's own default")
    login = "logged in" if wandb_login() else "no login: runs are kept offline (`wandb login`, then `wandb sync`)"
    print(f"wandb      {login}")
    for place in ("outputs", "data", "cache"):
        folder = Path(config.paths[place]).expanduser()
        print(f"{place:<10} {folder} ({_state(folder, place)})")
    folder = Path(config.paths.data).expanduser()
    for title, path in SOURCES.items():
        found = "found" if (folder / path).exists() else "missing: fetched at the first run where there is a network"
        print(f"data       {title}: {found}")
    print(f"python     {sys.executable}")


SOURCES = {
    "MNIST": "MNIST/raw",
    "Fashion-MNIST": "FashionMNIST/raw",
    "CIFAR-10": "cifar-10-batches-py",
    "CIFAR-10, re-encoded as JPEG": "cifar10_jpg",
    "Cora": "Planetoid/Cora/raw",
    "CiteSeer": "Planetoid/CiteSeer/raw",
}


def _state(folder: Path, place: str) -> str:
    if folder.is_dir():
        return f"{shutil.disk_usage(folder).free / 2**30:.0f} GB free"
    return "not there yet" if place != "data" else "not there: set REPLICATA_DATA or paths.data"


# Completion ---------------------------------------------------------------------------------


def complete(arguments: Sequence[str], commands: Sequence[str]) -> None:
    """Hydra's shell completion, behind the command's own words: ``eval "$(replicata -sc install=bash)"``."""
    from replicata.run.app import call_hydra

    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    finished = len(words) if line.endswith(" ") else len(words) - 1
    word = "" if line.endswith(" ") or not words else words[-1]
    group, equals, _ = word.lstrip("+").partition("=")
    dirs = composing.search_dirs()
    if equals and group in composing.groups(dirs):  # Hydra completes only the first level of a group
        print("\n".join(f"{group}={choice}" for choice in composing.choices(group, dirs)))
        return
    if not any(word.startswith("query=") for word in arguments) or (finished >= 2 and words[1] == "run"):
        command, _, rest = line.partition(" run ")
        os.environ["COMP_LINE"] = f"{command} {rest}"
        os.environ["COMP_POINT"] = str(len(f"{command} {rest}"))
        call_hydra(["-sc", *arguments], tracing=False)
    elif finished < 2:
        print("\n".join(commands))
    elif words[1] in ("show", "study", "check-results", "report", "tune"):
        print("\n".join(name for name, _ in composing.experiments(dirs)))
