"""``replicata wandb-sweep``: a search space as a W&B sweep, whose agents call ``replicata run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from replicata.errors import UserError, nearest
from replicata.run import compose as composing

USAGE = "usage: replicata wandb-sweep <space> experiment=<family>/<slug> [overrides] [--output FILE]"
METHODS = {"tpe": "bayes", "cmaes": "bayes", "random": "random", "grid": "grid"}
NOTES = {
    "cmaes": "W&B has no CMA-ES: bayes is what it has for numbers",
    "median": "W&B has no median pruner: the trials run to their end; search.pruner.kind=halving becomes its hyperband",
}


def wandb_sweep(arguments: Sequence[str]) -> None:
    """Write the sweep file and say how to start it."""
    from replicata.run.app import config_dirs

    words, output = _output(arguments)
    dirs = config_dirs(words)
    space, overrides = _words(words)
    known = composing.choices("search", composing.search_dirs(dirs))
    if space not in known:
        raise UserError(f"there is no search space {space!r}; {nearest(space, known)}")
    chosen = [] if any(word.startswith("logger=") for word in overrides) else ["logger=wandb"]
    content, notes = sweep(space, [*overrides, *chosen], dirs)
    path = output or Path(f"sweep-{space.replace('/', '-')}.yaml")
    if path.exists():
        raise UserError(f"{path} exists already; move it away or choose another name with --output")
    header = f"# {' '.join(['replicata', 'wandb-sweep', *words])}\n"
    path.write_text(header + "".join(f"# {note}.\n" for note in notes) + yaml.safe_dump(content, sort_keys=False))
    print(f"wrote {path}")
    print(f"start it with `wandb sweep {path}`, then `wandb agent <entity>/<project>/<sweep>` on each machine")


def _output(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The other words, and the file that ``--output`` names."""
    rest, output = list(arguments), None
    for position, word in enumerate(arguments):
        flag, equals, value = word.partition("=")
        if flag in ("--output", "-o"):
            value = value if equals else next(iter(arguments[position + 1 : position + 2]), "")
            if not value:
                raise UserError(USAGE)
            output = Path(value)
            rest = [*arguments[:position], *arguments[position + (1 if equals else 2) :]]
    return rest, output


def _words(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The space and the overrides."""
    rest, skip = [], False
    for word in arguments:
        if not skip and word.partition("=")[0] not in ("--config-dir", "-cd"):
            if word.startswith("-"):
                raise UserError(f"{word} is no option here; {USAGE}")
            rest.append(word)
        skip = word in ("--config-dir", "-cd")
    names = [word for word in rest if "=" not in word and not word.startswith("~")]
    if len(names) != 1:
        raise UserError(USAGE)
    return names[0], [word for word in rest if word != names[0]]


def sweep(space: str, overrides: Sequence[str], dirs: Sequence[Path] = ()) -> tuple[dict[str, Any], list[str]]:
    """The sweep, and what in it is not what the search would do.

    Args:
        space: Choice of the group ``search``.
        overrides: Of every run.
        dirs: Folders of the user's own configs.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from replicata.run.explain import explain
    from replicata.run.sampling import Settings
    from replicata.run.search import OWN
    from replicata.run.space import parse_space

    try:
        config = composing.compose([f"search={space}", *overrides], dirs)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, overrides, composing.search_dirs(dirs)) from error
    node = OmegaConf.to_container(config.search, resolve=True)
    assert isinstance(node, dict)
    settings = Settings.of(node)
    said = {word.lstrip("+~").partition("=")[0] for word in overrides}
    parameters = [parameter for parameter in parse_space(node["space"]) if parameter.key not in said]
    if not parameters:
        raise UserError(f"search={space}: its space is empty, so there is nothing to sweep")
    if settings.sampler == "grid":
        for parameter in parameters:
            parameter.grid()
    place = (config.get("logger") or {}).get("wandb") or {}
    folders = [word for folder in dirs for word in ("--config-dir", str(folder.resolve()))]
    words = [word for word in overrides if word.lstrip("+~").partition("=")[0].partition(".")[0] not in OWN]
    content: dict[str, Any] = {
        "name": f"{config.name or 'adhoc'} {space}",
        **{key: place[key] for key in ("project", "entity") if place.get(key)},
        "program": "replicata",
        "method": METHODS[settings.sampler],
        "metric": {"name": settings.metric, "goal": settings.direction},
        "parameters": {parameter.key: parameter.sweep() for parameter in parameters},
        **({"run_cap": settings.trials} if settings.trials else {}),
    }
    if settings.pruner == "halving":
        content["early_terminate"] = {"type": "hyperband", "min_iter": settings.min_epochs, "eta": 4}
    # A point that was run before must report again: the sweep waits for it.
    content["command"] = ["${env}", "replicata", "run", *folders, *words, "force=true", "${args_no_hyphens}"]
    return content, [NOTES[key] for key in (settings.sampler, settings.pruner) if key in NOTES]
