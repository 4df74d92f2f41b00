"""The ``study`` node of an experiment, read and checked.

    study = parse(config["study"], "graph/dagnn")     # a plain mapping or an OmegaConf one
    study.arms["gcn"].overrides, study.claims[0].tests

Whatever is unknown or does not fit together is refused here with one line that names the key. Nothing heavy is
imported: listing papers and their claims goes through this module. Interpolations are not resolved: in an override
they belong to the run (``optimizer.lr=${rates.sgd}``). docs/claims.md says what can be written.
"""

from __future__ import annotations

from typing import Any

from replicata.errors import UserError
from replicata.study.parse.claims import check_controls, read_claims
from replicata.study.parse.figures import read_figures
from replicata.study.parse.names import Names
from replicata.study.parse.tuning import read_tuning
from replicata.study.schema import Claim, Study

_STUDY = (
    "seeds",
    "factors",
    "arms",
    "groups",
    "derived",
    "missing",
    "claims",
    "figures",
    "tracks",
    "tuning",
    "retries",
)
_TRACK = ("overrides", "seeds", "factors", "arms", "groups", "derived", "claims")


def parse(node: Any, name: str = "study") -> Study:
    """Read and check a ``study`` node.

    Args:
        node: The node, as a plain mapping or an OmegaConf one.
        name: Name of the experiment, for messages and for the runs' ``experiment=``.

    Raises:
        UserError: in one line, for whatever is unknown, missing or inconsistent.
    """
    if node is None:
        raise UserError(f"{name} has no study: add study.arms and study.claims to its experiment config")
    if not isinstance(node, dict):
        from omegaconf import OmegaConf

        node = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    return _study(Names(name), node)


def _study(reader: Names, node: Any) -> Study:
    content = reader.mapping(node, "study", _STUDY)
    tracks = reader.mapping(content.get("tracks"), "study.tracks")
    if not content.get("arms") and not tracks:
        raise reader.error("study.arms", "is missing: name at least one arm")
    if content.get("arms") and "seeds" not in content:
        raise reader.error("study.seeds", "is missing: how many seeds does the study have?")
    seeds = reader.seeds(content.get("seeds", 1), "study.seeds")

    parts: list[tuple[str, str | None, dict[str, Any]]] = [("study", None, content)]
    for track, inside in tracks.items():
        parts.append((f"study.tracks.{track}", track, reader.mapping(inside, f"study.tracks.{track}", _TRACK)))
    for where, of_track, part in parts:
        factors = reader.read_factors(part.get("factors"), f"{where}.factors")
        own = reader.seeds(part["seeds"], f"{where}.seeds") if "seeds" in part else seeds
        base = reader.overrides(part.get("overrides"), f"{where}.overrides")
        for name, arm in reader.mapping(part.get("arms"), f"{where}.arms").items():
            reader.read_arm(name, arm, f"{where}.arms.{name}", seeds=own, base=base, factors=factors, track=of_track)
        if of_track and not part.get("arms"):
            raise reader.error(f"{where}.arms", "is missing: name at least one arm")
    reader.read_panels()
    for where, _, part in parts:
        for name, group in reader.mapping(part.get("groups"), f"{where}.groups").items():
            reader.read_group(name, group, f"{where}.groups.{name}")
    for where, _, part in parts:
        for name, derived in reader.mapping(part.get("derived"), f"{where}.derived").items():
            reader.read_derived(name, derived, f"{where}.derived.{name}")
    missing = reader.mapping(content.get("missing"), "study.missing")
    claims: list[Claim] = []
    for where, _, part in parts:
        claims += read_claims(reader, part.get("claims"), f"{where}.claims", claims)
    check_controls(reader, claims)
    return Study(
        name=reader.name,
        seeds=seeds,
        arms=reader.arms,
        factors=reader.factors,
        names=reader.names,
        groups=reader.groups,
        derived=reader.derived,
        missing={metric: reader.number(value, f"study.missing.{metric}") for metric, value in missing.items()},
        claims=tuple(claims),
        figures=read_figures(reader, content.get("figures") or [], "study.figures"),
        tuning=read_tuning(reader, content.get("tuning"), "study.tuning"),
        retries=reader.count(content.get("retries", 0), "study.retries"),
    )
