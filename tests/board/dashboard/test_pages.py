"""Every page over HTTP, without a browser: what it says, and that it stays whole whatever the records hold."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from replicata.board.dashboard.query import RunQuery, select, words_of


class Checker(HTMLParser):
    """Whether tags are closed in order, ids are unique, and scripts are none but our files."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "hr", "col", "wbr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        said = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        if "id" in said:
            self.ids.append(said["id"])
        if tag == "a" and "href" in said:
            self.links.append(said["href"])
        assert tag != "script" or said["src"].startswith("/static/"), "a script that is not ours"
        assert not any(name.startswith("on") or name == "style" for name in said), f"{tag} {said}"

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}>"


def page(client, address: str, status: int = 200) -> str:
    answer = client.get(address)
    assert answer.status_code == status, answer.text[:2000]
    checker = Checker()
    checker.feed(answer.text)
    assert not checker.open
    assert len(checker.ids) == len(set(checker.ids)), "an id twice"
    return answer.text


def shown(text: str) -> str:
    """What a reader sees."""
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"<(desc|title)[^>]*>.*?</\1>", "", text)).split())


# Pages --------------------------------------------------------------------------------------


def test_every_link_of_every_page_leads_somewhere(outputs, client) -> None:
    outputs.study()
    outputs.run("toys/other/abc/seed0", config={"optimizer.lr": 0.1})
    outputs.run("toys/other/abd/seed0", config={"optimizer.lr": 0.2})
    one = client(outputs)
    pending, seen, kinds = ["/"], set(), {}
    while pending:
        address = pending.pop()
        kind = re.sub(r"(?<=/runs/).*|(?<=/files/).*|(?<=sort=)[^&]*", "", address)
        kinds[kind] = kinds.get(kind, 0) + 1
        if kinds[kind] > 2:  # they are alike
            continue
        answer = one.get(address)
        assert answer.status_code == 200, f"{address}: {answer.text[:500]}"
        if not answer.headers["content-type"].startswith("text/html"):
            continue
        checker = Checker()
        checker.feed(answer.text)
        for link in checker.links:
            if link.startswith("/") and link not in seen and "/papers/" not in link.replace("/papers/toys", ""):
                seen.add(link)
                pending.append(link)
    assert {link.partition("?")[0] for link in seen} >= {"/", "/runs", "/sweeps", "/sweep", "/papers/toys/wide"}
    assert any(link.startswith("/runs/toys/wide/") for link in seen)
    assert any(link.startswith("/files/") for link in seen)


def test_the_board_lists_papers_by_family_with_their_verdicts(outputs, client) -> None:
    outputs.study()
    text = shown(page(client(outputs), "/"))
    assert "Wide &lt;b&gt;networks&lt;/b&gt;" in text
    assert "toys/wide · TOY 2020" in text
    row = text[text.index("toys/wide ·") :][:200]
    assert "wider_is_better holds" in row
    assert "much_better fails" in row
    assert "1 holds 1 fails" in row
    assert "Towards Deeper Graph Neural Networks" in text, "the papers of the package are on it as well"


def test_a_paper_says_what_it_claims_and_what_came_out(outputs, client) -> None:
    outputs.study()
    text = page(client(outputs), "/papers/toys/wide")
    said = shown(text)
    assert "A wide network is more accurate." in said
    assert re.search(r"0\.0\d+ \[0\.0\d+, 0\.0\d+\]", said)
    assert "wanted &gt; 0" in said
    assert re.search(r"wide 91.0 % 0\.8\d+ \[0\.8\d+, 0\.8\d+\] \(depth=one\)", said), "the paper's figures beside ours"
    assert "interval holds" in text
    assert text.count("<polyline") >= 4, "a curve for both arms at both levels"
    assert 'class="band' in text
    assert "/files/toys/wide/figures/accuracy.svg" in text
    assert "replicata study toys/wide launcher=local" in said
    assert "replicata run experiment=toys/wide model.width=64 seed=0" in said
    assert 'href="https://example.org/paper"' in text


def test_a_paper_of_the_package_has_its_method_with_equations(outputs, client) -> None:
    text = page(client(outputs), "/papers/graph/dagnn")
    assert "KDD 2020" in text
    assert text.count("<math") > 5
    assert 'class="eq-number">(4)' in text
    assert "\\tilde" not in text, "no LaTeX is left"
    assert "Nobody has run this study here" in text, "these are no committed results"
    text = page(client(outputs), "/papers/efficient/dycl")
    assert "condition-free parts one by one.</p>" in text, "what its colon leads to stands elsewhere on the page"


def test_committed_results_are_shown_where_there_are_no_runs(outputs, client) -> None:
    outputs.study()
    one = client(outputs)
    assert "wider_is_better" in page(one, "/papers/toys/wide")
    results = {
        **{"schema": 1, "experiment": "toys/wide", "scale": "laptop", "reconstructed": True, "overrides": []},
        **{"versions": {}, "hardware": ["a machine"], "seconds": 120.0, "ended": "2026-01-02T00:00:00+00:00"},
        "claims": [
            {"id": "wider_is_better", "statement": "A wide network is more accurate.", "role": "claim", "tests": []}
            | {"verdict": "inconclusive", "effect": 0.1, "interval": [-0.1, 0.3], "n": 3, "region": "> 0"}
            | {"method": "paired t", "paper": None}
        ],
        "arms": {
            "wide": {
                "overrides": [],
                "runs": [{"hash": "a", "code": "b", "seeds": [0], "metrics": {"test/acc": [0.9]}}],
            }
        },
    }
    path = outputs.results / "toys/wide.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(results))
    (outputs.outputs / "toys/wide/study.json").unlink()
    one = client(outputs)
    said = shown(page(one, "/papers/toys/wide"))
    assert "0.10 [-0.10, 0.30]" in said
    assert "reconstructed" in said
    assert "its interval reaches over the boundary" in said
    path.write_text("{")
    assert "cannot be read" in page(client(outputs), "/papers/toys/wide")
    assert "cannot be read" in page(client(outputs), "/")


def test_a_claim_that_calls_a_function_has_its_committed_verdict(outputs, client, tmp_path) -> None:
    outputs.experiment()
    path = outputs.conf / "experiment/toys/wide.yaml"
    text = path.read_text().replace(
        "kind: greater, metric: test/acc, arm: wide, than: narrow, by: 0.2, over: {depth: mean}",
        "kind: statistic, function: toy.bad, arms: [wide, narrow], above: 0",
    )
    outputs.study()
    path.write_text(text)
    said = shown(page(client(outputs), "/papers/toys/wide"))
    assert "not run much_better" in said
    assert "`replicata report` has to decide it" in said
    assert "holds wider_is_better" in said


def test_a_run_shows_all_that_its_directory_holds(outputs, client) -> None:
    outputs.study()
    directory = outputs.run(
        "toys/wide/wideone/seed0",
        tables={"gaps": [{"a": 1}]},
        arms={"pruned": {"test/acc": 0.7}},
        selected={"epoch": 1, "score": 0.7, "metrics": {"val/acc": 0.7}},
    )
    (directory / "figures").mkdir()
    (directory / "figures/weights.png").write_bytes(b"x")
    text = page(client(outputs), "/runs/toys/wide/wideone/seed0")
    said = shown(text)
    for part in (
        "optimizer",
        "betas",
        "[0.9, 0.99]",
        "the last line of the log",
        "(dirty)",
        "Some CPU",
        "gaps",
        "pruned",
    ):
        assert part in said
    assert "val/acc" in said
    assert "selected weights" in said
    assert "replicata verify outputs/toys/wide/wideone/seed0" in said
    assert "/files/toys/wide/wideone/seed0/figures/weights.png" in text
    assert text.count("<polyline") == 2
    assert "arm wide depth=one of toys/wide" in said


@pytest.mark.parametrize(("status", "command"), [("failed", "resume"), ("interrupted", "resume"), ("pruned", "resume")])
def test_a_run_that_did_not_finish_says_why_and_how_to_go_on(outputs, client, status, command) -> None:
    outputs.run("toys/wide/abc/seed0", status=status, error={"message": "the disk is full", "kind": "disk"})
    said = shown(page(client(outputs), "/runs/toys/wide/abc/seed0"))
    assert "the disk is full" in said
    assert f"replicata {command} outputs/toys/wide/abc/seed0" in said


@pytest.mark.parametrize("content", ["", "[]", '{"schema": 99}', '{"schema": 1, "status": "finished", "stages": 3}'])
def test_pages_of_a_broken_record_are_whole(outputs, client, content) -> None:
    outputs.study()
    (outputs.outputs / "toys/wide/wideone/seed0/run.json").write_text(content)
    one = client(outputs)
    for address in ("/", "/runs", "/papers/toys/wide", "/sweeps", "/runs?experiment=toys/wide"):
        page(one, address)
    path = "toys/wide/wideone/seed0"
    assert "damaged" in page(one, f"/runs/{path}") or "newer" in page(one, f"/runs/{path}") or "stages" in content
    page(one, f"/compare?run={path}&run=toys/wide/wideone/seed1")


def test_broken_files_beside_a_record_cost_no_page(outputs, client) -> None:
    directory = outputs.run("toys/wide/abc/seed0")
    (directory / "metrics.csv").write_text("epoch,step,val/acc\n0,9,high\n1,")
    (directory / "config.yaml").write_text("- a\n- b")
    (directory / "log.txt").write_bytes(b"\xff\xfe broken \x00 text")
    one = client(outputs)
    assert "broken" in page(one, "/runs/toys/wide/abc/seed0")
    page(one, "/compare?run=toys/wide/abc/seed0")


@pytest.mark.parametrize("address", ["/papers/no/such", "/runs/no/such", "/nothing", "/files/toys/figures/x.png"])
def test_what_is_not_there_is_said_to_be_not_there(outputs, client, address) -> None:
    assert "Back to the board" in page(client(outputs), address, 404)


def test_an_empty_outputs_folder_has_a_helpful_first_page(outputs, client) -> None:
    one = client(outputs)
    assert "replicata run experiment=adaptive/mip --smoke" in page(one, "/")
    assert "No run is here yet" in page(one, "/runs")
    assert "Nothing has been swept here yet" in page(one, "/sweeps")
    assert "Choose runs" in page(one, "/compare")
    assert not outputs.outputs.exists(), "it is not even made"


# Runs: filter, sort, group -------------------------------------------------------------------


@pytest.fixture
def many(outputs):
    for at in range(120):
        outputs.run(
            f"toys/{'even' if at % 2 == 0 else 'odd'}/h{at:03}/seed{at % 3}",
            config={"optimizer.lr": 10.0 ** -(at % 4), "model.act": ["relu", "gelu"][at % 2]},
            metrics={"test/acc": at / 1000} if at % 10 else {},
            started=f"2026-01-01T{at // 60:02}:{at % 60:02}:00+00:00",
            arm="gcn deep" if at < 30 else None,
        )
    index = outputs.settings().index()
    index.refresh()
    return lambda **said: select(index, RunQuery.of(said))


@pytest.mark.parametrize(
    ("said", "total"),
    [
        ({}, 120),
        ({"experiment": "toys/odd"}, 60),
        ({"q": "odd"}, 60),
        ({"q": "optimizer.lr>=0.1"}, 60),
        ({"q": "optimizer.lr >= 0.1 model.act=gelu"}, 30),
        ({"q": "test/acc>0.1"}, 18),
        ({"q": "test/acc=null"}, 12),
        ({"q": "test/acc!=null"}, 108),
        ({"q": "model.act~el"}, 120),
        ({"q": "model.act!=relu"}, 60),
        ({"q": 'arm="gcn deep"'}, 30),
        ({"q": "seed=1"}, 40),
        ({"q": "optimizer.lr=0.01"}, 30),
        ({"q": "optimizer.lr!=0.01"}, 90),
        ({"q": "h00"}, 10),
        ({"q": "100%"}, 0),
        ({"q": "h_0"}, 0),
        ({"state": "failed"}, 0),
        ({"state": "finished", "q": "even"}, 60),
        ({"q": "'; DROP TABLE runs; --"}, 0),
        ({"q": 'unclosed "quote'}, 0),
        ({"page": "nonsense"}, 120),
        ({"page": "999999"}, 120),
    ],
)
def test_filters(many, said, total) -> None:
    page = many(**said)
    assert page.problem == ""
    assert page.total == total
    assert len(page.rows) == min(50, total) or page.query.page == page.pages
    assert sum(many().states.values()) == 120


@pytest.mark.parametrize("key", ["started", "test/acc", "optimizer.lr", "arm", "seed"])
def test_sorting_goes_both_ways_over_pages_and_puts_what_is_missing_last(many, key) -> None:
    for sign in ("", "-"):
        rows = [row for page in (1, 2, 3) for row in many(sort=sign + key, page=str(page), columns=key).rows]
        assert len({row["path"] for row in rows}) == 120
        if key == "started":
            values = [row["started"] for row in rows]
        else:
            values = [row[key] if key in ("arm", "seed") else row["values"][0] for row in rows]
        there = [value for value in values if value is not None]
        assert there == sorted(there, reverse=sign == "-")
        assert None not in values[: len(there)]


def test_groups_count_and_average(many) -> None:
    page = many(group="optimizer.lr", columns="test/acc")
    assert [(row["value"], row["runs"]) for row in page.rows] == [(0.001, 30), (0.01, 30), (0.1, 30), (1.0, 30)]
    assert page.rows[0]["values"][0][0] == pytest.approx(sum(at for at in range(120) if at % 4 == 3) / 30 / 1000)


@pytest.mark.parametrize(
    "said", [{"q": "optimzer.lr=1"}, {"sort": "test/ac"}, {"columns": "test/acc,nope"}, {"group": "x"}]
)
def test_an_unknown_key_is_named_with_the_nearest(many, said) -> None:
    page = many(**said)
    assert page.rows == []
    assert "no run has a config key or metric" in page.problem


def test_the_problem_of_a_filter_is_on_the_page(outputs, client) -> None:
    outputs.run("toys/wide/abc/seed0")
    assert "did you mean &#39;optimizer.lr&#39;" in page(client(outputs), "/runs?q=optimzer.lr=1")


def test_words_of_a_filter() -> None:
    assert words_of("a  b>= 3 \"c d\" e='f g'") == ["a", "b>=3", "c d", "e=f g"]


def test_an_address_says_the_query_again() -> None:
    asked = RunQuery.of({"q": "a b", "experiment": "x/y", "columns": "a, b,,a", "sort": "-test/acc", "page": "3"})
    assert asked.columns == ("a", "b")
    assert asked.address() == "experiment=x%2Fy&q=a+b&sort=-test%2Facc&columns=a%2Cb"
    assert "page=2" in asked.address(page=2)


# Comparing and sweeps ------------------------------------------------------------------------


def test_comparing_shows_what_differs_only(outputs, client) -> None:
    outputs.run("toys/wide/aaa/seed0", config={"optimizer.lr": 0.1}, metrics={"test/acc": 0.9, "test/loss": 0.5})
    outputs.run("toys/wide/bbb/seed0", config={"optimizer.lr": 0.3}, metrics={"test/acc": 0.8, "test/loss": 0.4})
    text = page(client(outputs), "/compare?run=toys/wide/aaa/seed0&run=toys/wide/bbb/seed0&run=toys/wide/zzz/seed0")
    said = shown(text)
    difference = said[said.index("What differs") : said.index("Final metrics")]
    assert "optimizer.lr 0.1 0.3" in difference
    assert "model.width" not in difference
    assert "There is no run toys/wide/zzz/seed0" in said
    assert re.findall(r'<td class="number best">([^<]*)<', text) == ["0.9", "0.4"], "less of a loss is better"
    assert text.count("<polyline") == 4


def test_a_sweep_orders_overrides_by_what_they_did(outputs, client) -> None:
    for at in range(24):
        rate, width = 10.0 ** -(at % 3), [16, 32][at // 3 % 2]
        outputs.run(
            f"toys/swept/h{at:02}/seed0",
            arm=f"trial-{at}",
            config={
                **{"optimizer.lr": rate, "model.width": width, "data.width": width, "method.noise": at},
                "search": {"storage": "/some/where/abc123", "trial": at, "metric": "val/f1", "direction": "minimize"},
            },
            metrics={"val/f1": rate + 0.001 * width, "val/acc": 0.5},
        )
    one = client(outputs)
    assert "search abc123" in shown(page(one, "/sweeps"))
    text = page(one, "/sweep?experiment=toys/swept&search=%2Fsome%2Fwhere%2Fabc123")
    said = shown(text)
    weights = re.findall(r"(\S+)(?: \+\d)? +(\d+) %", said[said.index("Importance") :])
    assert weights[0][0] == "optimizer.lr"
    assert int(weights[0][1]) > 90
    assert dict(weights)["method.noise"] != "100", "a key of its own value for each run explains nothing"
    assert "data.width +1" in said, "keys that change together are one"
    assert re.search(r"Best run trial-2 seed 0 ?: val/f1 0.026", said), "the search says that less is better"
    assert text.count('class="path') == 24
    assert "trial-23" in page(one, "/sweep?experiment=toys/swept&metric=val/acc&goal=maximize")
    assert "no run has a config key" in page(one, "/sweep?q=nope%3D1")


# The command of a run ------------------------------------------------------------------------


def test_the_command_of_a_run_is_proved_by_its_hash(outputs, client) -> None:
    from replicata.board.dashboard.repeat import Repeater
    from replicata.run import compose as composing
    from replicata.run.identity import identify, resolved

    outputs.conf.mkdir()
    words = ["experiment=adaptive/mip", "optimizer.weight_decay=0.125", "seed=3"]
    from omegaconf import OmegaConf

    config = composing.compose(words)
    identity = identify(config)
    path = f"{identity.name}/{identity.hash}/seed3"
    directory = outputs.run(path)
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(resolved(config)))
    stamp = "2026-01-01 00:00:00,000 INFO replicata.run.logfile: python 3.11.7, replicata "
    (directory / "log.txt").write_text(
        f"{stamp}--multirun experiment=adaptive/mip optimizer.weight_decay=0.1,0.125 seed=3,4\n"
    )
    index = outputs.settings().index()
    index.refresh()
    repeater = Repeater(composing.search_dirs(), index)
    assert repeater.command(path).line == "replicata run experiment=adaptive/mip optimizer.weight_decay=0.125 seed=3"
    (directory / "log.txt").write_text(f"{stamp}{' '.join(words)}\n")
    assert Repeater(composing.search_dirs(), index).command(path).line == f"replicata run {' '.join(words)}"
    other = outputs.run(f"{identity.name}/0123456789ab/seed3")
    (other / "config.yaml").write_text((directory / "config.yaml").read_text().replace("0.125", "'of another time'"))
    index.refresh()
    assert Repeater(composing.search_dirs(), index).command(f"{identity.name}/0123456789ab/seed3") is None


# Nothing heavy -------------------------------------------------------------------------------


def test_no_page_imports_torch_or_a_method(outputs, tmp_path) -> None:
    outputs.study()
    code = """
import sys
from pathlib import Path
from starlette.testclient import TestClient
from replicata.board.dashboard.app import Settings, create_app
from replicata.run import compose as composing
settings = Settings(Path("outputs"), composing.search_dirs(["conf"]), Path("results"), Path("cache"))
with TestClient(create_app(settings, watch=False), base_url="http://127.0.0.1") as client:
    for page in ["/", "/papers/toys/wide", "/papers/graph/dagnn", "/runs", "/runs/toys/wide/wideone/seed0", "/sweeps",
                 "/sweep?experiment=toys/wide", "/compare?run=toys/wide/wideone/seed0"]:
        assert client.get(page).status_code == 200, page
heavy = ("torch", "lightning", "matplotlib", "wandb", "optuna", "sklearn")
print([name for name in sys.modules if name in heavy or name.startswith("replicata.methods")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
