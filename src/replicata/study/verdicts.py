"""The committed results of a study: ``results/<family>/<slug>.json``.

    results = build(study, table, verdicts, reconstructed=False)
    results = joined(read(path), results, study)            # if only some of the arms were run
    write(results_path(root, study.name), results)
    stale = changes(read(path), study, {(arm, levels): (hash, code), ...})      # [] when up to date

The same runs give the same file, byte for byte. It holds what a reader needs to judge a verdict and to repeat it, and
what :func:`changes` needs to tell that it no longer belongs to the configs: for every arm (and level of its factors)
the config's hash, the code's fingerprint, the seeds, and per seed the metrics that claims read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from replicata.errors import UserError
from replicata.study.claims import Finding, Verdict
from replicata.study.plan import Cell, metrics_of, needed_arms, only_decides
from replicata.study.schema import Claim, Study
from replicata.study.table import Row, Table

SCHEMA = 1
DIGITS = 6


def results_path(root: Path, name: str) -> Path:
    """``results/<family>/<slug>.json`` under the root of a checkout."""
    return root / "results" / f"{name}.json"


def build(
    study: Study,
    table: Table,
    verdicts: Sequence[Verdict],
    *,
    reconstructed: bool,
    extra: Sequence[str] = (),
) -> dict[str, Any]:
    """The content of a results file.

    Args:
        study: The study.
        table: Its runs.
        verdicts: What :func:`~replicata.study.claims.evaluate` said about them.
        reconstructed: Whether the method had to be reconstructed from an incomplete description.
        extra: Overrides that all runs had beside the config's.
    """
    records = list({(row.record.get("hash"), row.seed): row.record for row in table if row.record}.values())
    claims = {claim.id: claim for claim in study.claims}
    return {
        "schema": SCHEMA,
        "experiment": study.name,
        "scale": study.scale,
        "reconstructed": reconstructed,
        "overrides": list(extra),
        "claims": [_claim(claims[verdict.id], verdict) for verdict in verdicts],
        "arms": _arms(study, table),
        "versions": _versions(records),
        "hardware": sorted({hardware_class(record.get("hardware") or {}) for record in records}),
        "seconds": round(sum(float(record.get("seconds") or 0) for record in records), 1),
        "ended": max((str(record.get("ended") or "") for record in records), default=""),
    }


def joined(before: Mapping[str, Any], results: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """Results of some arms together with what was committed of the others.

    A claim of before is kept where the runs that it stands on are: not repeated, or repeated with the same numbers.
    Results of another scale or with other overrides are not kept.
    """
    if any(before[key] != results[key] for key in ("scale", "overrides", "reconstructed")):
        return dict(results)
    fresh = json.loads(json.dumps(results["arms"]))
    arms = {name: fresh.get(name, before["arms"].get(name)) for name in study.names}
    changed = {
        study.variant(name)[0].name
        for name, content in fresh.items()
        if _facts(content) != _facts(before["arms"].get(name, {}))
    }
    kept = {claim.id for claim in study.claims if not changed & needed_arms(study, [claim])}
    claims = {claim["id"]: claim for claim in before["claims"] if claim["id"] in kept}
    claims |= {claim["id"]: claim for claim in results["claims"]}
    together = {
        **results,
        "claims": [claims[claim.id] for claim in study.claims if claim.id in claims],
        "arms": {name: content for name, content in arms.items() if content is not None},
    }
    if together["arms"].keys() <= fresh.keys():
        return together
    again = sum(_seconds(before["arms"][name]) for name in fresh if name in before["arms"])
    return together | {
        "versions": {
            package: ", ".join(sorted({*_listed(before["versions"], package), *_listed(results["versions"], package)}))
            for package in sorted({*before["versions"], *results["versions"]})
        },
        "hardware": sorted({*before["hardware"], *results["hardware"]}),
        "seconds": round(before["seconds"] - again + results["seconds"], 1),
        "ended": max(before["ended"], results["ended"]),
    }


def _facts(arm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What an arm's runs say, without how long they took."""
    return [{key: value for key, value in run.items() if key != "seconds"} for run in arm.get("runs", ())]


def _seconds(arm: Mapping[str, Any]) -> float:
    return sum(run.get("seconds", 0) for run in arm["runs"] if "reported_by" not in arm)


def _listed(versions: Mapping[str, str], package: str) -> list[str]:
    return versions[package].split(", ") if package in versions else []


def hardware_class(hardware: Mapping[str, Any]) -> str:
    """A machine in a few words, without what differs between two of its kind."""
    cores = hardware.get("cores")
    gpus = hardware.get("gpus") or []
    words = [hardware.get(key) for key in ("machine", "processor", "instructions")]
    words.append(f"{cores} cores" if cores else None)
    words.append(", ".join(sorted(set(gpus))) + (f" x {len(gpus)}" if len(gpus) > 1 else "") if gpus else "no GPU")
    return ", ".join(str(word) for word in words if word)


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Write a results file whole or not at all."""
    from replicata.run.record import write_atomic

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, _text(results) + "\n")


def read(path: Path) -> dict[str, Any]:
    """The content of a results file.

    Raises:
        UserError: if there is none, or it cannot be read.
    """
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there are no results {path}; run the study with --commit-results") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({error}); write it again with --commit-results") from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise UserError(f"{path} is no results file of this version; write it again with --commit-results")
    return results


def restore(results: Mapping[str, Any]) -> list[Verdict]:
    """The verdicts in a results file, as :func:`~replicata.study.claims.evaluate` gave them."""
    return [
        Verdict(
            id=claim["id"],
            statement=claim["statement"],
            **_restored(claim),
            reason=claim.get("reason", ""),
            paper=claim["paper"],
            role=claim["role"],
            strength=claim.get("strength"),
            parts=tuple(_restored_part(part) for part in claim.get("parts", ())),
        )
        for claim in results["claims"]
    ]


def _restored_part(part: Mapping[str, Any]) -> Finding:
    reasons = (part["reason"],) if part.get("reason") else ()
    parts = tuple(_restored_part(inner) for inner in part.get("parts", ()))
    return Finding(test=part["test"], **_restored(part), reasons=reasons, parts=parts)


def _restored(content: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers; an open end of an interval, which JSON cannot say, is null."""
    ends = content.get("interval")
    low, high = ends or (None, None)
    interval = None if ends is None else (-math.inf if low is None else low, math.inf if high is None else high)
    numbers = {key: content.get(key) for key in ("verdict", "effect", "n", "region", "method")}
    return {**numbers, "interval": interval}


def changes(results: Mapping[str, Any], study: Study, current: Mapping[tuple[str, Cell], tuple[str, str]]) -> list[str]:
    """Why results no longer belong to the current configs and code; empty if they do.

    Args:
        results: Content of the file.
        study: The study as the configs say it now.
        current: For every arm that runs, at every combination of its levels, the hash of its config and the
            fingerprint of its code.
    """
    found = []
    recorded = {claim["id"]: claim for claim in results["claims"]}
    claims = {claim.id: claim for claim in study.claims if claim.scale in (None, results["scale"])}
    found += [f"claim {name} is new" for name in claims if name not in recorded]
    found += [f"claim {name} is gone" for name in recorded if name not in claims]
    for name, claim in claims.items():
        if name in recorded and [recorded[name]["tests"], recorded[name].get("given", [])] != list(_tests(claim)):
            found.append(f"claim {name} is tested in another way")
    runs = {
        (arm, tuple(run.get("levels", {}).items())): run
        for arm, content in results["arms"].items()
        for run in content["runs"]
        if "reported_by" not in content
    }
    for (arm, levels), (config, code) in current.items():
        where = " ".join([f"arm {arm}", *(f"{factor}={level}" for factor, level in levels)])
        run = runs.get((arm, levels))
        if run is None:
            found.append(f"{where} is new")
        elif run["hash"] != config:
            found.append(f"{where}: its config changed")
        elif run["code"] != code:
            found.append(f"{where}: its code changed")
        elif run["seeds"] != sorted(study.arms[arm].seeds):
            found.append(f"{where}: its seeds changed")
    found += [f"arm {arm} is gone" for arm in dict.fromkeys(arm for arm, _ in runs) if arm not in study.arms]
    return found


def _tests(claim: Claim) -> tuple[list[str], list[str]]:
    return [str(test) for test in claim.tests], [str(test) for test in claim.given]


def _claim(claim: Claim, verdict: Verdict) -> dict[str, Any]:
    tests, given = _tests(claim)
    content = {
        "id": verdict.id,
        "statement": verdict.statement,
        "role": verdict.role,
        "strength": verdict.strength,
        "tests": tests,
        "given": given,
        **_numbers(verdict),
        "reason": verdict.reason,
        "paper": verdict.paper,
        "parts": [_part(part) for part in verdict.parts],
    }
    always = ("verdict", "effect", "interval", "n", "paper")
    return {key: value for key, value in content.items() if key in always or value not in ("", None, [])}


def _part(part: Finding) -> dict[str, Any]:
    content = {
        "test": part.test,
        **_numbers(part),
        "reason": "; ".join(part.reasons),
        "parts": [_part(inner) for inner in part.parts],
    }
    return {key: value for key, value in content.items() if value not in ("", [])}


def _numbers(said: Verdict | Finding) -> dict[str, Any]:
    return {
        "verdict": said.verdict,
        "effect": _round(said.effect),
        "interval": None if said.interval is None else [_round(end) for end in said.interval],
        "n": said.n,
        "region": said.region,
        "method": said.method,
    }


def _round(value: float | None) -> float | None:
    """Six significant digits; JSON has no infinity, an open end is null."""
    if value is None or value in (float("inf"), float("-inf")):
        return None
    return float(f"{value:.{DIGITS}g}")


def _arms(study: Study, table: Table) -> dict[str, Any]:
    rows: dict[str, dict[Cell, list[Row]]] = {}
    for row in table:
        rows.setdefault(row.arm, {}).setdefault(row.levels, []).append(row)
    arms = {}
    for name, by_level in rows.items():
        arm, panel = study.variant(name)
        content: dict[str, Any] = {"overrides": list(arm.overrides)} if panel is None else {"reported_by": arm.name}
        content["runs"] = [_runs(study, table, level, some) for level, some in by_level.items()]
        arms[name] = content
    return arms


def _runs(study: Study, table: Table, levels: Cell, rows: Sequence[Row]) -> dict[str, Any]:
    rows = sorted(rows, key=lambda row: row.seed)
    metrics: dict[str, list[float | None]] = {}
    for metric in _claimed(study, rows[0].arm):
        tested = only_decides(study, metric)
        values = [table.value(row.arm, levels, row.seed, metric, tested=tested).value for row in rows]
        if any(value is not None for value in values):
            metrics[metric] = [_round(value) for value in values]
    unfinished = {str(row.seed): f"{row.status}: {row.reason}" for row in rows if row.status != "finished"}
    content = {
        "levels": dict(levels),
        "hash": _one(row.record.get("hash") for row in rows),
        "code": _one(row.record.get("code") for row in rows),
        "seeds": [row.seed for row in rows],
        "seconds": round(sum(float(row.record.get("seconds") or 0) for row in rows), 1),
        "metrics": metrics,
        "unfinished": unfinished,
    }
    return {key: value for key, value in content.items() if value or key not in ("levels", "unfinished")}


def _claimed(study: Study, arm: str) -> list[str]:
    """The metrics that claims read, derived ones only for the arms they read them of."""
    own, all_of_them = [], []
    for claim in study.claims:
        for test in (*claim.tests, *claim.given):
            metrics = metrics_of(study, test)
            all_of_them += [metric for metric in metrics if metric not in study.derived]
            if arm in study.compared(test):
                own += metrics
    return list(dict.fromkeys(own + all_of_them))


def _one(values: Iterable[Any]) -> str:
    return ", ".join(sorted({str(value) for value in values if value}))


def _versions(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    found: dict[str, set[str]] = {}
    for record in records:
        for package, version in (record.get("versions") or {}).items():
            found.setdefault(package, set()).add(str(version))
    return {package: ", ".join(sorted(found[package])) for package in sorted(found)}


def _text(value: Any, indent: str = "") -> str:
    """JSON with a list of plain values on one line."""
    inner = indent + "  "
    if isinstance(value, Mapping) and value:
        lines = [f"{inner}{json.dumps(str(key))}: {_text(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        lines = [f"{inner}{_text(item, inner)}" for item in value]
        return "[\n" + ",\n".join(lines) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
