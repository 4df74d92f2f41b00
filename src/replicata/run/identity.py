"""What a run is: its name, the hash of what can change its numbers, and its seed; together, its directory."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from replicata.run.instantiate import targets

# Keys that cannot change the numbers of a run.
OUTSIDE = {
    *("name", "arm", "only", "seed", "paths", "logger", "force", "trace", "allow"),
    *("paper", "smoke", "study", "search"),
}
OUTSIDE_TRAINER = {"enable_progress_bar", "log_every_n_steps", "profiler", "detect_anomaly"}
OUTSIDE_CHECKPOINT = {"every_seconds", "every_n_batches"}
PLACES = ("outputs", "data", "cache")


@dataclass(frozen=True)
class Identity:
    """Name, hash and seed of one run."""

    name: str
    hash: str
    seed: int

    def directory(self, outputs: str | Path) -> Path:
        return Path(outputs).expanduser() / self.name / self.hash / f"seed{self.seed}"


def identify(config: DictConfig) -> Identity:
    """The identity of a composed config."""
    canonical = json.dumps(_content(config), sort_keys=True, separators=(",", ":"))
    name = OmegaConf.select(config, "name") or "adhoc"
    return Identity(str(name), hashlib.sha256(canonical.encode()).hexdigest()[:12], int(config.seed))


def stage_config(config: DictConfig, name: str) -> DictConfig:
    """The config of a stage as a run of its own.

    The stage's subtree becomes the root, so that its interpolations (``${data.num_classes}``) mean its
    own nodes; what it does not say about the machine and the folders it takes from its parent.
    """
    parent = OmegaConf.to_container(config, resolve=False)
    assert isinstance(parent, dict)
    own = parent["stages"][name]
    root = {key: parent[key] for key in ("paths", "threads", "trace", "allow", "force") if key in parent}
    root |= {"seed": parent["seed"], "scheduler": None, "model": None, "optimizer": None, "stages": {}, "test": "none"}
    root |= {"paper": None, "smoke": [], "study": None, "logger": {}, "callbacks": parent["callbacks"]}
    root["logger"] = {key: value for key, value in (parent.get("logger") or {}).items() if key == "csv"}
    root |= own
    if own.get("seed") in (None, "${seed}"):
        root["seed"] = parent["seed"]
    machine = ("accelerator", "devices", "num_nodes", "strategy", "precision", "enable_progress_bar")
    root["trainer"] = own["trainer"] | {key: parent["trainer"][key] for key in machine if key in parent["trainer"]}
    root["name"] = own.get("name") or f"{OmegaConf.select(config, 'name') or 'adhoc'}/stages/{name}"
    return OmegaConf.create(root)


def _content(config: DictConfig) -> dict[str, Any]:
    """The resolved config without seed, folders and whatever leaves the numbers alone."""
    blank = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    assert isinstance(blank, DictConfig)
    with open_dict(blank):
        blank.seed = "<seed>"
        blank.name = None
        for place in PLACES:
            blank.paths[place] = f"<{place}>"
        stages = {name: _content(stage_config(blank, name)) | {"seed": _seed(blank, name)} for name in blank.stages}
        blank.stages = {}
        for key in OUTSIDE - {"seed", "paths", "name"}:
            blank.pop(key, None)
    content = OmegaConf.to_container(blank, resolve=True)
    assert isinstance(content, dict)
    for key in ("seed", "paths", "name"):
        content.pop(key, None)
    for key in OUTSIDE_TRAINER:
        (content.get("trainer") or {}).pop(key, None)
    for key in OUTSIDE_CHECKPOINT:
        ((content.get("callbacks") or {}).get("checkpoint") or {}).pop(key, None)
    return {str(key): value for key, value in content.items()} | {"stages": stages}


def _seed(config: DictConfig, stage: str) -> Any:
    return stage_config(config, stage).seed


def code_targets(config: DictConfig) -> list[str]:
    """The targets whose code can change the numbers: all but the loggers'."""
    return sorted({target for key, target in targets(config) if key.partition(".")[0] not in OUTSIDE})


def resolved(config: DictConfig) -> DictConfig:
    """The config with every interpolation replaced by its value.

    Stages are kept as they were composed: they resolve as runs of their own, and ``${seed}`` must go
    on meaning the seed of this run.
    """
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    stages = plain.pop("stages", {})
    content = OmegaConf.to_container(OmegaConf.create(plain), resolve=True)
    assert isinstance(content, dict)
    return OmegaConf.create(content | {"stages": stages})
