"""Static pages: whole, linked by relative addresses, and nothing that needs a server; the README's table."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from replicata.board.dashboard.papers import BoardRow, ClaimRow
from replicata.board.dashboard.site import BEGIN, END, board_markdown, write_readme


class Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list) -> None:
        said = dict(attrs)
        self.found += [said[name] for name in ("href", "src") if name in said]
        self.ids.add(said.get("id", ""))


@pytest.fixture
def report(replicata, outputs):
    def make(*words: str):
        outputs.conf.mkdir(exist_ok=True)
        return replicata("report", "--html", "site", "--config-dir", "conf", "paths.cache=cache", *words)

    return make


def test_every_link_of_every_file_leads_to_a_file(outputs, report) -> None:
    outputs.study()
    outputs.run("toys/wide/odd name %2f/seed0", config={"optimizer.lr": 0.5})
    (outputs.outputs / "toys/wide/wideone/seed0/figures").mkdir()
    (outputs.outputs / "toys/wide/wideone/seed0/figures/w.png").write_bytes(b"x")
    called = report()
    assert called.status == 0, called.err
    site = Path("site")
    pages = sorted(site.rglob("*.html"))
    names = {path.relative_to(site).as_posix() for path in pages}
    assert {"index.html", "runs.html", "sweeps.html", "papers/toys/wide.html", "experiments/toys/wide.html"} <= names
    assert "runs/toys/wide/wideone/seed0.html" in names
    assert "sweeps/1.html" in names
    for path in pages:
        text = path.read_text()
        links = Links()
        links.feed(text)
        for link in links.found:
            if link.startswith(("http://", "https://")):
                continue
            assert not link.startswith("/"), f"{path}: {link}"
            target, _, part = link.partition("#")
            found = (path.parent / unquote(target)).resolve() if target else path
            assert found.is_file(), f"{path}: {link}"
            assert not part or not target or part in found.read_text()
        for needs in ("data-follows", '<form id="compare', "compare-go", "/events"):
            assert needs not in text, f"{path}: {needs}"
    assert (site / "files/toys/wide/figures/accuracy.svg").is_file()
    assert (site / "files/toys/wide/wideone/seed0/figures/w.png").is_file()


def test_the_content_is_that_of_the_server(outputs, report, client) -> None:
    outputs.study()
    assert report().status == 0

    def words(text: str) -> list[str]:
        main = text[text.index('id="claims"') : text.index('id="repeat"')]
        return re.sub(r"<[^>]*>", " ", re.sub(r'id="chart[^"]*"|chart\d+', "", main)).split()

    served = client(outputs).get("/papers/toys/wide").text
    assert words(Path("site/papers/toys/wide.html").read_text()) == words(served)


def test_pages_of_before_go_and_a_foreign_folder_stays(outputs, report) -> None:
    directory = outputs.run("toys/wide/abc/seed0")
    outputs.run("toys/wide/abc/seed1")
    assert report().status == 0
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    assert report().status == 0
    assert not Path("site/runs/toys/wide/abc/seed0.html").exists()
    assert Path("site/runs/toys/wide/abc/seed1.html").exists()
    foreign = Path("foreign")
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    called = report("--html=foreign")
    assert called.status == 2
    assert "no site of before" in called.err
    assert (foreign / "thesis.tex").exists()
    called = report("--html=outputs")
    assert called.status == 2


def test_many_runs_are_in_several_files(outputs, report, monkeypatch) -> None:
    monkeypatch.setattr("replicata.board.dashboard.site.PER_PAGE", 2)
    for seed in range(5):
        outputs.run(f"toys/wide/abc/seed{seed}")
    assert report().status == 0
    found = [
        re.findall(r"runs/toys/wide/abc/seed(\d)\.html", Path(f"site/runs{end}.html").read_text())
        for end in ("", "-2", "-3")
    ]
    assert sorted(seed for page in found for seed in set(page)) == ["0", "1", "2", "3", "4"]
    assert 'href="runs-3.html"' in Path("site/runs.html").read_text()


def test_an_empty_outputs_folder_makes_a_site_of_what_is_committed(outputs, report) -> None:
    assert report().status == 0
    assert "Towards Deeper Graph Neural Networks" in Path("site/index.html").read_text()
    assert "No run is here yet" in Path("site/runs.html").read_text()


ROWS = [
    BoardRow(
        name="toys/wide",
        title="Wide | [nets] <b>",
        venue="TOY 2020",
        url="https://example.org",
        claims=(ClaimRow("a", "A.", "holds"), ClaimRow("b", "B.", "fails"), ClaimRow("c", "C.", "holds", "control")),
        seconds=100.0,
    )
]


def test_the_readme_gets_the_table_between_its_markers_and_nothing_else(tmp_path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\nbefore\n\n{BEGIN}\nstale\n{END}\n\nafter\n")
    assert write_readme(path, ROWS)
    text = path.read_text()
    assert text.startswith(f"# Title\n\nbefore\n\n{BEGIN}\n\n| paper | venue | holds | fails |")
    assert text.endswith(f"\n\n{END}\n\nafter\n")
    assert "stale" not in text
    assert not write_readme(path, ROWS), "a second time changes nothing"
    assert path.read_text() == text


def test_the_table_counts_claims_and_keeps_markup_out() -> None:
    row = board_markdown(ROWS).splitlines()[2]
    assert row == "| [Wide \\| \\[nets\\] &lt;b>](https://example.org) `toys/wide` | TOY 2020 | 1 | 1 |  |  | 2 min |"


@pytest.mark.parametrize("text", ["no markers", f"{BEGIN} only", f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_readme_without_markers_is_left_alone(outputs, report, text) -> None:
    Path("README.md").write_text(text)
    called = report("--readme", "README.md")
    assert called.status == 2
    assert BEGIN in called.err
    assert Path("README.md").read_text() == text


def test_the_readme_option_needs_pages(replicata) -> None:
    called = replicata("report", "--readme", "README.md")
    assert called.status == 2
    assert "--readme needs --html" in called.err
