"""Arms, panels, factors, groups and derived columns: what claims, figures and tuning refer to by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from replicata.errors import nearest
from replicata.study.parse.reader import BOUNDS, Reader
from replicata.study.schema import Arm, Derived, Factor, Group

REDUCTIONS = ("mean", "max", "min", "last", "first")
_ARM = ("overrides", "panel", "seeds", "where")


class Names(Reader):
    """What was named so far; the ``read_`` methods add to it, and the others look it up."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.arms: dict[str, Arm] = {}
        self.factors: dict[str, Factor] = {}
        self.names: dict[str, tuple[str, str | None]] = {}
        self.groups: dict[str, Group] = {}
        self.derived: dict[str, Derived] = {}

    # Reading -------------------------------------------------------------------------------

    def read_factors(self, node: Any, where: str) -> dict[str, Factor]:
        found = {}
        for name, levels in self.mapping(node, where).items():
            if name in self.factors:
                raise self.error(f"{where}.{name}", "is the name of another factor already")
            read = {
                level: self.overrides(overrides, f"{where}.{name}.{level}")
                for level, overrides in self.mapping(levels, f"{where}.{name}").items()
            }
            if not read:
                raise self.error(f"{where}.{name}", "has no levels")
            found[name] = self.factors[name] = Factor(name, read)
        return found

    def read_arm(
        self,
        name: str,
        node: Any,
        where: str,
        *,
        seeds: tuple[int, ...],
        base: tuple[str, ...],
        factors: Mapping[str, Factor],
        track: str | None,
    ) -> None:
        if name in self.arms:
            raise self.error(where, "is the name of another arm already")
        if "/" in name:
            raise self.error(where, "must not hold a slash: it separates an arm from its panel")
        content = self.mapping(node, where, _ARM) if isinstance(node, Mapping) else {"overrides": node}
        levels = {factor: tuple(content_of.levels) for factor, content_of in factors.items()}
        for factor, chosen in self.mapping(content.get("where"), f"{where}.where", factors).items():
            words = chosen if isinstance(chosen, list | tuple) else [chosen]
            picked = [self.level(word, factors[factor], f"{where}.where.{factor}") for word in words]
            levels[factor] = tuple(level for level in levels[factor] if level in picked)
        self.arms[name] = Arm(
            name=name,
            overrides=base + self.overrides(content.get("overrides"), where),
            seeds=self.seeds(content["seeds"], f"{where}.seeds") if "seeds" in content else seeds,
            panel=self.texts(content.get("panel"), f"{where}.panel"),
            levels=levels,
            own_seeds="seeds" in content,
            track=track,
        )

    def read_panels(self) -> None:
        reports = [(panel, arm.name) for arm in self.arms.values() for panel in arm.panel]
        self.names = {name: (name, None) for name in self.arms}
        for panel, arm in reports:
            if panel in self.arms:
                raise self.error(f"study.arms.{arm}.panel", f": {panel!r} is the name of an arm already")
            if reports.count((panel, arm)) > 1:
                raise self.error(f"study.arms.{arm}.panel", f"names {panel!r} twice")
            alone = sum(other == panel for other, _ in reports) == 1
            self.names[panel if alone else f"{arm}/{panel}"] = (arm, panel)

    def read_group(self, name: str, node: Any, where: str) -> None:
        content = self.mapping(node, where, ("arms", "reduce", "by", "better"))
        if name in self.names or name in self.groups:
            raise self.error(where, "is the name of an arm or a group already")
        reduce = self.choice(content.get("reduce"), ("best", "mean", "pool"), f"{where}.reduce")
        if (reduce == "best") != ("by" in content):
            raise self.error(
                f"{where}.by", "names the metric that decides which arm is best; only reduce: best needs it"
            )
        self.groups[name] = Group(
            name=name,
            arms=self.variants(content.get("arms"), f"{where}.arms", groups=False),
            reduce=reduce,
            by=self.text(content["by"], f"{where}.by") if "by" in content else None,
            higher=self.better(content, where),
        )
        self.same_cells(self.groups[name].arms, f"{where}.arms")

    def read_derived(self, name: str, node: Any, where: str) -> None:
        content = self.mapping(node, where, ("curve", "reduce", "function", "from", "missing", *BOUNDS))
        if name in self.derived:
            raise self.error(where, "is derived already")
        missing = self.number(content["missing"], f"{where}.missing") if "missing" in content else None
        if ("curve" in content) == ("function" in content):
            raise self.error(where, "needs either curve and reduce, or function")
        if "function" in content:
            unfit = [key for key in ("reduce", *BOUNDS) if key in content]
            if unfit:
                raise self.error(f"{where}.{unfit[0]}", "does not go with function")
            arms = content.get("from") or []
            self.derived[name] = Derived(
                name=name,
                function=self.text(content["function"], f"{where}.function"),
                arms=self.variants(arms, f"{where}.from", groups=False) if arms else (),
                missing=missing,
            )
            return
        if "from" in content:
            raise self.error(f"{where}.from", "goes with function only")
        reduce = self.choice(content.get("reduce"), REDUCTIONS, f"{where}.reduce")
        bounded = any(key in content for key in BOUNDS)
        if (reduce == "first") != bounded:
            raise self.error(where, "needs at_least or at_most with reduce: first, the target to reach, and only there")
        self.derived[name] = Derived(
            name=name,
            curve=self.text(content["curve"], f"{where}.curve"),
            reduce=reduce,
            target=self.bound(content, where) if bounded else None,
            missing=missing,
        )

    # Looking up ----------------------------------------------------------------------------

    def level(self, word: Any, factor: Factor, where: str) -> str:
        if str(word) not in factor.levels:
            raise self.error(
                where, f": factor {factor.name} has no level {str(word)!r}; {nearest(str(word), factor.levels)}"
            )
        return str(word)

    def variant(self, word: Any, where: str, groups: bool = True) -> str:
        """The one name of an arm, panel or group."""
        known = {name: name for name in self.names}
        for name, (arm, panel) in self.names.items():
            if panel is not None:
                known[f"{arm}/{panel}"] = name
        if groups:
            known |= {name: name for name in self.groups}
        if not isinstance(word, str | int | float) or str(word) not in known:
            raise self.error(where, f": there is no arm {word!r}; {nearest(str(word), known)}")
        return known[str(word)]

    def variants(self, node: Any, where: str, groups: bool = True) -> tuple[str, ...]:
        names = tuple(self.variant(word, where, groups) for word in self.texts(node, where))
        if not names:
            raise self.error(where, "names no arms")
        if len(set(names)) != len(names):
            raise self.error(where, f"names an arm twice: {', '.join(names)}")
        return names

    def several(self, content: Mapping[str, Any], where: str) -> tuple[str, ...]:
        """``arm: one`` or ``arms: [several]``; groups stand for their arms."""
        if ("arm" in content) == ("arms" in content):
            raise self.error(where, "needs either arm or arms")
        words = [content["arm"]] if "arm" in content else content["arms"]
        names = self.variants(words, f"{where}.{'arm' if 'arm' in content else 'arms'}")
        return tuple(dict.fromkeys(arm for name in names for arm in self.members(name)))

    def members(self, name: str) -> tuple[str, ...]:
        return self.groups[name].arms if name in self.groups else (name,)

    def crossed(self, names: Iterable[str]) -> dict[str, list[Arm]]:
        """The factors that any of these arms is crossed with, and the arms that are."""
        arms = [self.arms[self.names[name][0]] for name in names]
        found = {factor: [arm for arm in arms if factor in arm.levels] for factor in self.factors}
        return {factor: crossing for factor, crossing in found.items() if crossing}

    def chosen(self, node: Any, crossed: Mapping[str, Sequence[Arm]], where: str) -> dict[str, str]:
        """By factor the one level that a ``where`` names, at which all of the arms must be run."""
        found = {}
        for factor, level in self.mapping(node, where, crossed).items():
            found[factor] = self.level(level, self.factors[factor], f"{where}.{factor}")
            for arm in crossed[factor]:
                if found[factor] not in arm.levels[factor]:
                    raise self.error(f"{where}.{factor}", f": arm {arm.name!r} is not run at {found[factor]!r}")
        return found

    def same_cells(self, names: Sequence[str], where: str) -> None:
        if len({tuple(self.arms[self.names[name][0]].levels.items()) for name in names}) > 1:
            raise self.error(where, "are run at different levels of a factor")
