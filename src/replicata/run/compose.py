"""Where the configs are, and composing one outside Hydra's own main."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig

PRIMARY = "run"


def config_dir() -> Path:
    """The folder of config groups: inside an installed package, or at the root of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parents[1] / "configs"


def search_dirs(extra: Sequence[str | Path] = ()) -> list[Path]:
    """All folders that hold config groups, the user's own (``--config-dir``) first."""
    return [*(Path(folder) for folder in extra), config_dir()]


def choices(group: str, dirs: Sequence[Path]) -> list[str]:
    """All choices of a config group, subfolders included: ``data`` -> ``vision/digits``, ..."""
    found = set()
    for folder in dirs:
        for path in (folder / group).rglob("*.yaml"):
            found.add(path.relative_to(folder / group).with_suffix("").as_posix())
    return sorted(found)


def groups(dirs: Sequence[Path]) -> list[str]:
    """The names of the config groups."""
    return sorted({path.name for folder in dirs if folder.is_dir() for path in folder.iterdir() if path.is_dir()})


def experiments(dirs: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Experiments at their usual scale: (``family/slug``, file)."""
    seen = set()
    for folder in dirs:
        root = folder / "experiment"
        for path in sorted(root.rglob("*.yaml")):
            name = path.relative_to(root).with_suffix("").as_posix()
            if not name.endswith("_paper") and name not in seen:
                seen.add(name)
                yield name, path


def find(group: str, choice: str, dirs: Sequence[Path]) -> Path | None:
    """The file of one choice, or ``None``."""
    for folder in dirs:
        path = folder / group / f"{choice}.yaml"
        if path.is_file():
            return path
    return None


def read(path: Path) -> dict:
    """A config file as plain YAML: its own keys, nothing composed."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is seven times as fast
    loaded = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
    return loaded if isinstance(loaded, dict) else {}


def described(name: str, dirs: Sequence[Path]) -> dict:
    """What an experiment and those it derives from say, nothing composed: enough for ``paper`` and ``study``.

    Composing takes a tenth of a second; a page about all papers reads them all.
    """
    path = find("experiment", name, dirs)
    if path is None:
        return {}
    own = read(path)
    merged: dict = {}
    entries = own.get("defaults") or []
    for entry in entries if "_self_" in entries else [*entries, "_self_"]:
        if entry == "_self_":
            merged = _merged(merged, own)
        elif isinstance(entry, str):
            base = entry.partition("@")[0].lstrip("/").removeprefix("experiment/")
            merged = _merged(merged, described(base, dirs))
    return merged


def _merged(below: dict, above: dict) -> dict:
    """Mappings merge key by key; of everything else the one above counts."""
    both = {key: _merged(below[key], above[key]) for key in above if _mappings(below.get(key), above[key])}
    return {**below, **above, **both}


def _mappings(*nodes: object) -> bool:
    return all(isinstance(node, dict) for node in nodes)


def compose(overrides: Sequence[str], extra: Sequence[str | Path] = ()) -> DictConfig:
    """Compose a run config as ``replicata run`` would, without running it."""
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf, open_dict

    searchpath = ",".join(str(Path(folder).resolve()) for folder in extra)
    extra_override = [f"hydra.searchpath=[{searchpath}]"] if searchpath else []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = hydra_compose(PRIMARY, overrides=[*overrides, *extra_override], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        name = OmegaConf.select(config, "name")
    with open_dict(config):
        config.name = name
        del config["hydra"]
    return config
