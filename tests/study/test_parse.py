"""Reading the ``study`` node: what is understood, and what is refused with which line."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from replicata.errors import UserError
from replicata.run import compose as composing
from replicata.study.parse import parse
from replicata.study.schema import Region

FULL = """
seeds: 5
factors:
  data: {cora: [data=graph/cora], citeseer: [data=graph/citeseer]}
arms:
  dense: {overrides: [model=big], panel: [both50, both80]}
  small: [model=small]
  heavy: {overrides: [model=huge], seeds: 3, where: {data: cora}}
  wide: null
tracks:
  sizes:
    overrides: [method=other]
    seeds: [7, 8, 9]
    factors: {n: {10: [data.n=10], 20: [data.n=20], 40: [data.n=40]}}
    arms: {grow: [a=1], keep: []}
    claims:
      - id: falls
        statement: The error falls with n.
        test: {kind: trend, metric: test/error, arm: grow, along: n, direction: falling}
groups:
  fixed: {arms: [small, wide], reduce: best, by: val/acc}
derived:
  val/acc_mean: {curve: val/acc, reduce: mean, missing: 0.1}
  epochs_to_90: {curve: val/acc, reduce: first, at_least: 0.9, missing: 21}
  drop: {function: drop, from: [small]}
missing: {test/acc: 1e-1}
claims:
  - id: better
    statement: Dense is better.
    paper: {dense: 84.4}
    strength: strong
    given: [{kind: threshold, metric: val/acc, arm: dense, ">=": 0.8, over: {data: mean}}]
    all:
      - {kind: greater, metric: test/acc, arm: dense, than: fixed, over: {data: each}}
      - {kind: noninferior, metric: loss, arm: dense, than: small, margin: 0.01, better: lower, where: {data: cora}}
      - {kind: ratio_at_most, metric: params, arm: both50, than: dense, ratio: 0.5, exact: true, over: {data: mean}}
  - {id: sane, role: control, statement: s, test: {kind: threshold, metric: m, arm: heavy, at_most: 0.5}}
  - id: own
    role: report
    statement: The paper's own statistic.
    test: {kind: statistic, function: slope, arms: [dense, small], above: 0.7}
  - id: related
    statement: They go together.
    test: {kind: correlation, x: a, y: b, arms: [dense, small, wide], method: pearson, below: 0}
figures:
  - {id: learning, kind: curve, title: Learning, metric: val/acc, where: {data: cora}}
  - {id: depth, kind: curve, title: Depth, table: depth, x: depth, y: acc, by: data, arms: [dense], band: [low, high]}
"""


def node() -> dict[str, Any]:
    return yaml.safe_load(FULL)


def test_a_full_study_is_read() -> None:
    study = parse(node(), "toy/full")
    assert list(study.arms) == ["dense", "small", "heavy", "wide", "grow", "keep"]
    assert study.arms["dense"].levels == {"data": ("cora", "citeseer")}
    assert study.arms["heavy"].levels == {"data": ("cora",)}
    assert study.arms["heavy"].seeds == (0, 1, 2)
    assert study.arms["wide"].overrides == ()
    grow = study.arms["grow"]
    assert (grow.overrides, grow.seeds, grow.levels) == (("method=other", "a=1"), (7, 8, 9), {"n": ("10", "20", "40")})
    assert study.variant("both80") == (study.arms["dense"], "both80")
    assert study.members("fixed") == ("small", "wide")
    assert study.missing == {"test/acc": 0.1}
    assert study.derived["epochs_to_90"].target == Region(0.9, above=True, closed=True)
    claims = {claim.id: claim for claim in study.claims}
    assert list(claims) == ["better", "sane", "own", "related", "falls"]
    better = claims["better"]
    assert [test.region for test in better.tests] == [
        Region(0.0, above=True, closed=False),
        Region(0.01, above=False, closed=True),
        Region(0.5, above=False, closed=True),
    ]
    assert better.given[0].region == Region(0.8, above=True, closed=True)
    assert claims["sane"].controls == ("better", "own", "related")  # those beside it
    assert str(better.tests[0]) == "test/acc: dense - fixed > 0, each data"
    assert str(claims["falls"].tests[0]) == "test/error: falling over grow along n"


def test_a_panel_name_of_two_arms_is_qualified() -> None:
    arms = {"lstm": {"panel": ["both60"]}, "gru": {"panel": ["both60"]}}
    claim = {
        "id": "a",
        "statement": "s",
        "test": {"kind": "greater", "metric": "m", "arm": "lstm/both60", "than": "gru"},
    }
    study = parse({"seeds": 2, "arms": arms, "claims": [claim]})
    assert study.claims[0].tests[0].arms == ("lstm/both60", "gru")
    claim["test"] |= {"arm": "both60"}  # type: ignore[operator]
    with pytest.raises(UserError, match=r"no arm 'both60'; did you mean .*both60"):
        parse({"seeds": 2, "arms": arms, "claims": [claim]})


def test_an_unambiguous_panel_name_may_be_qualified_too() -> None:
    claim = {"id": "a", "statement": "s", "test": {"kind": "greater", "metric": "m", "arm": "net/half", "than": "net"}}
    study = parse({"seeds": 2, "arms": {"net": {"panel": ["half"]}}, "claims": [claim]})
    assert study.claims[0].tests[0].arms == ("half", "net")


def test_a_controls_list_limits_what_it_controls() -> None:
    content = node()
    content["claims"][1]["controls"] = ["own"]
    assert parse(content).claims[1].controls == ("own",)


MISTAKES = {
    "claimz: []": "study.claimz is not known; did you mean 'claims'",
    "seeds: 0": "study.seeds must be a number of seeds or a list of different ones, got 0",
    "seeds: [1, 1]": r"study.seeds must be a number of seeds .*got \[1, 1\]",
    "seeds: true": "study.seeds must be a number of seeds",
    "arms: {}": "study.arms is missing",
    "arms: {a: [model]}": "'model' is no Hydra override: write key=value",
    "arms: {a: [seed=1]}": "'seed=1': the study itself sets seed",
    "arms: {a: model=x}": "study.arms.a must be a list, got 'model=x'",
    "arms: {a: {override: []}}": "study.arms.a.override is not known; did you mean 'overrides'",
    "arms: {a: {where: {data: cora}}}": "study.arms.a.where.data is not known; there are no choices here",
    "arms: {a/b: []}": "must not hold a slash",
    "arms: {a: {panel: [b]}, b: []}": "study.arms.a.panel: 'b' is the name of an arm already",
    "arms: {a: {panel: [c, c]}}": "names 'c' twice",
    "factors: {f: {}}": "study.factors.f has no levels",
    "tracks: {t: {arms: {a: []}}}": "study.tracks.t.arms.a is the name of another arm already",
    "tracks: {t: {seeds: 2}}": "study.tracks.t.arms is missing",
    "groups: {g: {arms: [a, b], reduce: worst}}": "g.reduce cannot be 'worst'; choose one of: best, mean, pool",
    "groups: {g: {arms: [a, b], reduce: best}}": "study.groups.g.by names the metric that decides",
    "groups: {g: {arms: [a, d], reduce: mean}}": "study.groups.g.arms: there is no arm 'd'",
    "groups: {a: {arms: [a, b], reduce: mean}}": "study.groups.a is the name of an arm or a group already",
    "groups: {g: {arms: [a], reduce: best, by: m, better: more}}": "better cannot be 'more'",
    "derived: {d: {curve: c}}": "study.derived.d.reduce cannot be None",
    "derived: {d: {curve: c, reduce: first}}": "needs at_least or at_most with reduce: first",
    "derived: {d: {curve: c, reduce: mean, at_least: 1}}": "needs at_least or at_most with reduce: first",
    "derived: {d: {function: f, curve: c}}": "needs either curve and reduce, or function",
    "derived: {d: {function: f, reduce: mean}}": "study.derived.d.reduce does not go with function",
    "derived: {d: {function: f, from: [x]}}": "study.derived.d.from: there is no arm 'x'",
    "derived: {d: {curve: c, reduce: mean, missing: many}}": "study.derived.d.missing must be a number",
    "missing: {test/acc: .nan}": "study.missing.test/acc must be a number, got nan",
    "claims: {id: x}": "study.claims must be a list of claims",
    "claims: [{statement: s}]": r"study.claims\[0\].id must be a text, got None",
    "claims: [{id: x, test: {kind: greater}}]": r"study.claims\[x\].statement must be a text",
    "claims: [{id: x, statement: s}]": r"study.claims\[x\] needs either test \(one\) or all",
    "claims: [{id: x, statement: s, all: []}]": r"study.claims\[x\].all must be a list of tests",
}
TESTS = {
    "{kind: greter, metric: m, arm: a, than: b}": "test.kind cannot be 'greter'; did you mean 'greater'",
    "{kind: greater, arm: a, than: b}": "test.metric is missing",
    "{kind: greater, metric: m, arm: a}": "test.than is missing",
    "{kind: greater, metric: m, arm: a, than: a}": "compares 'a' with itself",
    "{kind: greater, metric: m, arm: a, than: bb}": "test.than: there is no arm 'bb'; did you mean 'b'",
    "{kind: greater, metric: m, arm: a, than: b, margin: 1}": "test.margin is not known; did you mean",
    "{kind: greater, metric: m, arm: a, than: b, by: -1}": "test.by must be >= 0",
    "{kind: greater, metric: m, arm: a, than: b, by: 1, binary: true}": "test.by does not go with binary",
    "{kind: greater, metric: m, arm: a, than: b, exact: 1}": "test.exact must be true or false",
    "{kind: greater, metric: m, arm: a, than: pooled}": "the pooled group 'pooled' has no pairs",
    "{kind: noninferior, metric: m, arm: a, than: b}": "test.margin is missing",
    "{kind: noninferior, metric: m, arm: a, than: b, margin: 0.1, better: smaller}": "test.better cannot be 'smaller'",
    "{kind: ratio_at_most, metric: m, arm: a, than: b, ratio: half}": "test.ratio must be a number, got",
    "{kind: threshold, metric: m, arm: a}": "test needs exactly one of at_least, at_most, above, below",
    "{kind: threshold, metric: m, arm: a, at_least: 1, at_most: 2}": "test needs exactly one of",
    "{kind: trend, metric: m, arms: [a, b], direction: rising}": "follows 2 points; a trend needs three",
    "{kind: trend, metric: m, arms: [a, b, c], direction: up}": "test.direction cannot be 'up'",
    "{kind: trend, metric: m, arm: a, direction: rising}": "follows either several arms, or one arm along a factor",
    "{kind: trend, metric: m, arm: a, along: size, direction: rising}": "test.along cannot be 'size'",
    "{kind: correlation, x: m, arms: [a, b]}": "test.y is missing: a correlation is of two metrics",
    "{kind: correlation, x: m, y: n, arms: [a, b, c]}": "has 3 points in a seed and needs 5; say per: run",
    "{kind: correlation, x: m, y: n, arm: a, arms: [b]}": "needs either arm or arms",
    "{kind: statistic, above: 0}": "test.function must be a text",
    "{kind: statistic, function: f}": "needs exactly one of at_least",
    "{kind: statistic, function: f, above: 0, over: {data: each}}": "test.over.data is not known",
    "{kind: greater, metric: m, arm: x, than: y}": r"must say how its arms' factor 'f' counts: over: \{f: each \| mean",
    "{kind: greater, metric: m, arm: x, than: y, over: {f: sum}}": "test.over.f cannot be 'sum'",
    "{kind: greater, metric: m, arm: x, than: y, where: {f: p, g: q}}": "test.where.g is not known; choose one of: f",
    "{kind: greater, metric: m, arm: x, than: y, where: {f: z}}": "factor f has no level 'z'",
    "{kind: greater, metric: m, arm: x, than: y, where: {f: p}, over: {f: each}}": "factor 'f' is in where already",
    "{kind: greater, metric: m, arm: x, than: z, over: {f: each}}": "compares arms at different levels of 'f'",
    "{kind: greater, metric: m, arm: x, than: z, where: {f: q}}": "test.where.f: arm 'z' is not run at 'q'",
}
ARMS = {"a": [], "b": ["m=1"], "c": ["m=2"]}


FIGURES = {
    "{kind: pie}": r"figures\[it\].kind cannot be 'pie'",
    "{id: null, kind: bars}": r"figures\[0\].id must be a text",
    "{id: my fig, kind: bars}": r"figures\[0\].id names a file: use a-z, 0-9 and _ only",
    "{title: null, kind: bars, metric: m}": "title must be a text, got None",
    "{kind: bars, metric: m, log: y}": "log is not known",
    "{kind: bars, metric: m, arms: [z]}": "arms: there is no arm 'z'",
    "{kind: bars, metric: m, by: dat}": "by cannot be 'dat'; did you mean 'data'",
    "{kind: bars, metric: m, by: arm}": "shows several levels of 'data' as one; say where: {data: <level>} or by: data",
    "{kind: bars, metric: m, by: data, where: {data: r}}": "where.data: factor data has no level 'r'",
    "{kind: bars, metric: m, where: {data: q}}": "where.data: arm 'c' is not run at 'q'",
    "{kind: bars, metric: m, where: {dat: q}}": "where.dat is not known; did you mean 'data'",
    "{kind: bars, by: data}": r"metric is missing \(or table, y\)",
    "{kind: curve, metric: m, x: time}": "x cannot be 'time'",
    "{kind: curve, metric: m, y: acc}": "y does not go without table",
    "{kind: curve, metric: m, table: t, x: n, y: acc}": "metric does not go with table",
    "{kind: curve, table: t, x: n}": "y is missing",
    "{kind: curve, metric: m, by: data, band: [low, high]}": "band must be interval, range, or the two columns",
    "{kind: curve, metric: m, by: data, band: wide}": "band cannot be 'wide'",
    "{kind: curve, metric: m, by: data, log_y: yes please}": "log_y must be true or false",
    "{kind: curve, metric: m, by: data, reference: {chance: tenth}}": "reference.chance must be a number",
    "{kind: curve, metric: m, arms: [half], where: {data: p}}": "arms: 'half' is reported by 'a', which has the curves",
    "{kind: scatter, x: size}": "y is missing",
    "{kind: scatter, x: size, y: acc, by: data, front: {x: lower}}": "front.y cannot be None",
    "{kind: heatmap, metric: m, x: data}": "y is missing",
    "{kind: heatmap, metric: m, x: data, y: row}": "y cannot be 'row'",
    "{kind: heatmap, value: v, metric: m, x: data, y: arm}": "value does not go without table",
    "{kind: images, table: t, x: data}": "image is missing",
    "{kind: images, files: '*.png', table: t, image: i, x: data}": "files does not go with table",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_study_is_named(mistake: str) -> None:
    content = {"seeds": 2, "arms": ARMS, **yaml.safe_load(mistake)}
    with pytest.raises(UserError, match=MISTAKES[mistake]) as caught:
        parse(content, "toy/study")
    assert str(caught.value).startswith("toy/study: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mistake", TESTS)
def test_a_mistake_in_a_test_is_named(mistake: str) -> None:
    crossed = {
        "factors": {"f": {"p": ["f=p"], "q": ["f=q"]}},
        "arms": {"x": [], "y": [], "z": {"where": {"f": "p"}}},
    }
    content = {
        "seeds": 2,
        "arms": ARMS,
        "tracks": {"other": crossed},
        "groups": {"pooled": {"arms": ["b", "c"], "reduce": "pool"}},
        "claims": [{"id": "it", "statement": "s", "test": yaml.safe_load(mistake)}],
    }
    with pytest.raises(UserError, match=TESTS[mistake]) as caught:
        parse(content, "toy/study")
    assert "study.claims[it].test" in str(caught.value)


def of_study(*figures: dict[str, Any]) -> dict[str, Any]:
    """A study with a factor, a panel, a group and a track."""
    return {
        "seeds": 2,
        "factors": {"data": {"p": ["d=p"], "q": ["d=q"]}},
        "arms": {"a": {"panel": ["half"]}, "b": [], "c": {"where": {"data": "p"}}},
        "groups": {"both": {"arms": ["a", "b"], "reduce": "pool"}},
        "tracks": {"other": {"arms": {"far": []}}},
        "figures": list(figures),
    }


@pytest.mark.parametrize("mistake", FIGURES)
def test_a_mistake_in_a_figure_is_named(mistake: str) -> None:
    figure = {"id": "it", "title": "It", **yaml.safe_load(mistake)}
    with pytest.raises(UserError, match=FIGURES[mistake]) as caught:
        parse(of_study({key: value for key, value in figure.items() if value is not None}), "toy/study")
    assert "study.figures[" in str(caught.value)


def test_two_figures_cannot_share_an_id() -> None:
    figure = {"id": "it", "title": "It", "kind": "bars", "metric": "m", "by": "data"}
    with pytest.raises(UserError, match=r"figures\[it\].id is the id of another figure already"):
        parse(of_study(figure, figure))


def test_a_figure_has_what_it_need_not_say() -> None:
    of_runs = {"id": "acc", "title": "Accuracy", "kind": "bars", "metric": "test/acc", "by": "data"}
    within = {"id": "loss", "title": "Loss", "kind": "curve", "metric": "loss", "where": {"data": "p"}}
    grouped = {
        "id": "size",
        "title": "Size",
        "kind": "scatter",
        "x": "size",
        "y": "acc",
        "arms": ["both"],
        "by": "data",
    }
    bars, curve, scatter = parse(of_study(of_runs, within, grouped)).figures
    assert (bars.x, bars.by, bars.arms) == ("arm", "data", ("a", "b", "c", "half"))
    assert (curve.x, curve.by, curve.band, curve.arms) == ("epoch", "arm", "interval", ("a", "b", "c"))
    assert scatter.arms == ("a", "b")


def test_two_claims_cannot_share_an_id() -> None:
    claim = {"id": "x", "statement": "s", "test": {"kind": "threshold", "metric": "m", "arm": "a", "above": 0}}
    with pytest.raises(UserError, match=r"claims\[x\].id is the id of another claim already"):
        parse({"seeds": 1, "arms": ARMS, "claims": [claim, claim]})


def test_controls_must_exist() -> None:
    test = {"kind": "threshold", "metric": "m", "arm": "a", "above": 0}
    control = {"id": "x", "statement": "s", "role": "control", "controls": ["y"], "test": test}
    with pytest.raises(UserError, match="controls: there is no claim 'y'"):
        parse({"seeds": 1, "arms": ARMS, "claims": [control]})
    with pytest.raises(UserError, match="goes with role: control only"):
        parse({"seeds": 1, "arms": ARMS, "claims": [control | {"role": "claim"}]})


def test_an_experiment_without_a_study_says_so() -> None:
    with pytest.raises(UserError, match="toy has no study"):
        parse(None, "toy")


def paths(content: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every node of a config is."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [at] * bool(at) + [path for key, child in inside for path in paths(child, (*at, key))]


@given(
    path=st.sampled_from(paths(node())),
    value=st.sampled_from([None, True, 0, -3, 2.5, float("nan"), "", "x", "data", [], [[]], {}, {"x": 1}, ["dense"]]),
    remove=st.booleans(),
)
def test_whatever_is_wrong_is_refused_in_one_line(path: tuple[Any, ...], value: Any, remove: bool) -> None:
    content = copy.deepcopy(node())
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    try:
        parse(content)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017  other exceptions are the failure looked for


@pytest.mark.parametrize("name", dict(composing.experiments(composing.search_dirs())))
def test_every_study_of_the_package_is_read(name: str) -> None:
    path = composing.find("experiment", name, composing.search_dirs())
    assert path is not None
    content = composing.read(path).get("study")
    if content is not None:
        assert parse(content, name).arms


def test_reading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from replicata.study import parse, plan, claims, table, verdicts;"
        "print([name for name in ('numpy', 'scipy', 'torch', 'hydra', 'omegaconf', 'pyarrow') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
