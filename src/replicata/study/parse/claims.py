"""Claims: their tests, preconditions, roles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from replicata.errors import nearest
from replicata.study.parse.names import Names
from replicata.study.parse.tests import read_test
from replicata.study.schema import Claim

ROLES = ("claim", "control", "report")
SCALES = ("laptop", "paper")
_CLAIM = ("id", "statement", "paper", "test", "all", "given", "role", "controls", "strength", "scale")


def read_claims(reader: Names, node: Any, where: str, before: Sequence[Claim]) -> list[Claim]:
    """The claims of a study or a track; those that were read ``before`` have their ids already."""
    if node is not None and not isinstance(node, list | tuple):
        raise reader.error(where, "must be a list of claims, each with an id")
    found: list[Claim] = []
    for at, inside in enumerate(node or ()):
        content = reader.mapping(inside, f"{where}[{at}]")
        name = reader.text(content.get("id"), f"{where}[{at}].id")
        here = f"{where}[{name}]"
        reader.mapping(content, here, _CLAIM)
        if any(claim.id == name for claim in (*before, *found)):
            raise reader.error(f"{here}.id", "is the id of another claim already")
        if ("test" in content) == ("all" in content):
            raise reader.error(here, "needs either test (one) or all (a list of tests that must all hold)")
        tests = [content["test"]] if "test" in content else content["all"]
        key = "test" if "test" in content else "all"
        if not isinstance(tests, list | tuple) or not tests:
            raise reader.error(f"{here}.{key}", "must be a list of tests")
        given = content.get("given") or []
        if not isinstance(given, list | tuple):
            raise reader.error(f"{here}.given", "must be a list of tests")
        role = reader.choice(content.get("role", "claim"), ROLES, f"{here}.role")
        if "controls" in content and role != "control":
            raise reader.error(f"{here}.controls", "goes with role: control only")
        found.append(
            Claim(
                id=name,
                statement=reader.text(content.get("statement"), f"{here}.statement"),
                tests=tuple(
                    read_test(reader, test, f"{here}.test" if key == "test" else f"{here}.all[{number}]")
                    for number, test in enumerate(tests)
                ),
                paper=content.get("paper"),
                given=tuple(read_test(reader, test, f"{here}.given[{number}]") for number, test in enumerate(given)),
                role=role,
                controls=reader.texts(content.get("controls"), f"{here}.controls"),
                strength=reader.optional(content.get("strength"), ("strong", "weak"), f"{here}.strength"),
                scale=reader.optional(content.get("scale"), SCALES, f"{here}.scale"),
            )
        )

    beside = tuple(claim.id for claim in found if claim.role != "control")
    return [
        replace(claim, controls=beside) if claim.role == "control" and not claim.controls else claim for claim in found
    ]


def check_controls(reader: Names, claims: Sequence[Claim]) -> None:
    """Whether the claims that controls are over exist."""
    known = [claim.id for claim in claims if claim.role != "control"]
    for claim in claims:
        for controlled in claim.controls:
            if controlled not in known:
                where = f"study.claims[{claim.id}].controls"
                raise reader.error(where, f": there is no claim {controlled!r}; {nearest(controlled, known)}")
