"""The pages in a real browser: Chromium without a window, driven by Playwright. Skipped where there is no Chromium."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from replicata.board.dashboard.app import create_app, listen

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = os.environ.get("CHROMIUM") or next((found for name in NAMES if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium, or CHROMIUM=<path>"),
    pytest.mark.xdist_group("browser"),
]
OUTSIDE = Path(__file__).parents[2] / "outside"
PATIENCE = 60_000  # milliseconds; a machine that tests other things at the same time is slow
playwright.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def driver() -> Iterator:
    with playwright.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(driver) -> Iterator:
    # The sandbox needs rights that containers do not give; only pages of our own are opened.
    opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    yield opened
    opened.close()


@pytest.fixture
def serve():
    """Serves an outputs folder, watching it, in a thread of this process."""
    stops = []

    def start(outputs) -> str:
        opened = listen(0)
        server = uvicorn.Server(uvicorn.Config(create_app(outputs.settings()), log_level="error", ws="none"))
        thread = threading.Thread(target=lambda: server.run(sockets=[opened]), daemon=True)
        thread.start()
        stops.append((server, thread))
        return f"http://127.0.0.1:{opened.getsockname()[1]}"

    yield start
    for server, thread in stops:
        server.should_exit = server.force_exit = True
        thread.join(10)


@pytest.fixture
def visit(browser):
    """Opens an address; whatever the console complains about fails the test."""
    contexts, complaints = [], []

    def go(address: str, width: int = 1440, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def listed(base: str, page, count: int) -> None:
    """Wait until the index has all runs."""
    page.goto(f"{base}/runs")
    playwright.expect(page.locator(".states a").first).to_contain_text(f"all {count}")


def follow(page, link: str) -> None:
    """Click on what leads to another page, and wait until that one is whole, its script included."""
    with page.expect_navigation():
        page.locator(link).first.click()


def filled(outputs) -> list[str]:
    outputs.study()
    outputs.run(
        "toys/wide/evil/seed0", arm="<script>alert(1)</script>", status="failed", error={"message": "<b>no</b>"}
    )
    (outputs.run("toys/wide/broken/seed0") / "run.json").write_text("{")
    paths = ["toys/wide/wideone/seed0", "toys/wide/narrowone/seed0"]
    return [
        *("/", "/papers/toys/wide", "/papers/graph/dagnn", "/runs", "/runs?group=arm&experiment=toys/wide"),
        *(f"/runs/{paths[0]}", "/runs/toys/wide/broken/seed0"),
        *(f"/compare?run={paths[0]}&run={paths[1]}", "/sweeps", "/sweep?experiment=toys/wide"),
    ]


def serious(page) -> list[str]:
    """What axe-core finds that is serious."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {node['html'][:160]} {node.get('failureSummary', '')[:300]}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (800, "dark")])
def test_every_page_fits_is_accessible_and_quiet(outputs, serve, visit, width, scheme) -> None:
    addresses = filled(outputs)
    base = serve(outputs)
    page = visit(base, width, scheme)
    listed(base, page, 14)
    found = {}
    for address in addresses:
        if address == "/nowhere":
            continue
        page.goto(base + address)
        page.locator("main h1").wait_for()
        for details in page.locator("details").all():
            details.evaluate("one => one.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, address
        if problems := serious(page):
            found[address] = problems
    assert found == {}


def test_the_board_filters_by_family_verdict_and_text(outputs, serve, visit) -> None:
    outputs.study()
    base = serve(outputs)
    page = visit(base)
    listed(base, page, 12)
    page.goto(base)
    playwright.expect(page.locator("[data-paper='toys/wide']")).to_contain_text("1 fails")
    page.select_option("[name=family]", "toys")
    assert page.locator("[data-paper]:visible").count() == 1
    page.select_option("[name=family]", "")
    page.fill("[name=text]", "dagnn graph")
    assert page.locator("[data-paper]:visible").all_inner_texts()[0].startswith("Towards Deeper Graph Neural Networks")
    assert "text=dagnn" in page.url
    page.reload()
    assert page.locator("[data-paper]:visible").count() == 1, "a filter is part of the address"
    page.fill("[name=text]", "nothing like it")
    assert page.locator("#board-none").is_visible()
    page.click("text=Clear")
    page.select_option("[name=verdict]", "fails")
    assert page.locator("[data-paper]:visible").count() == 1
    follow(page, "[data-paper]:visible a")
    playwright.expect(page.locator("h1")).to_contain_text("Wide <b>networks</b>")


def many(outputs) -> None:
    for at in range(60):
        outputs.run(f"toys/many/h{at:02}/seed0", config={"optimizer.lr": at / 100}, metrics={"test/acc": at / 100})


def test_runs_are_filtered_sorted_chosen_over_pages_and_compared(outputs, serve, visit) -> None:
    many(outputs)
    base = serve(outputs)
    page = visit(base)
    listed(base, page, 60)
    page.fill("[name=q]", "optimizer.lr>=0.05")
    page.press("[name=q]", "Enter")
    playwright.expect(page.locator(".pager")).to_contain_text("of 55")
    follow(page, "thead >> text=test/acc")
    playwright.expect(page.locator("th[aria-sort]")).to_have_text("test/acc")
    assert page.locator("tbody tr").first.inner_text().find("0.59") > 0
    page.locator("tbody input[type=checkbox]").first.check()
    follow(page, "text=Next")
    page.locator("tbody input[type=checkbox]").last.check()
    playwright.expect(page.locator("#compare-count")).to_have_text("2")
    follow(page, "#compare-go")
    playwright.expect(page.locator("h1")).to_have_text("2 runs side by side")
    assert "0.59" in page.locator("#difference").inner_text()
    assert page.locator("#difference tbody tr").count() == 2, "the state and the one key that differs"
    line = page.locator("polyline[data-series='0']").first
    page.locator("[data-toggle='0']").first.click()
    assert not line.is_visible()
    page.locator("[data-toggle='0']").first.click()
    assert line.is_visible()
    page.locator("[data-chart] svg[data-box]").first.hover()
    assert page.locator(".tip").is_visible()
    page.goto(f"{base}/runs")
    playwright.expect(page.locator("#compare-count")).to_have_text("2")
    page.click("#compare-clear")
    playwright.expect(page.locator("#compare-count")).to_have_text("0")


def test_a_choice_counts_that_was_made_before_the_script_ran(outputs, serve, visit) -> None:
    outputs.study()
    base = serve(outputs)
    page = visit(base)
    listed(base, page, 12)
    page.locator("tbody input[type=checkbox]").last.check()
    first = page.locator("tbody input[type=checkbox]").first

    def held_back(script) -> None:
        first.check()
        script.continue_()

    page.route("**/app.js*", held_back)
    page.goto(f"{base}/runs")
    playwright.expect(page.locator("#compare-count")).to_have_text("2")
    assert first.is_checked()


def test_a_choice_that_was_undone_stays_so_when_the_browser_goes_back(outputs, serve, visit) -> None:
    many(outputs)
    base = serve(outputs)
    page = visit(base)
    listed(base, page, 60)
    page.locator("tbody input[type=checkbox]").first.check()
    follow(page, "text=Next")
    page.click("#compare-clear")
    page.go_back()
    playwright.expect(page.locator(".pager")).to_contain_text("1–50 of 60")
    playwright.expect(page.locator("#compare-count")).to_have_text("0")
    assert not page.locator("tbody input[type=checkbox]").first.is_checked()


def test_a_page_out_of_the_browsers_memory_follows_runs_and_knows_the_choice(outputs, serve, driver) -> None:
    many(outputs)
    base = serve(outputs)
    # Playwright turns that memory off, which browsers of people have.
    settings = {"args": ["--no-sandbox"], "ignore_default_args": ["--disable-back-forward-cache"]}
    browser = driver.chromium.launch(executable_path=CHROMIUM, **settings)
    try:
        page = browser.new_context().new_page()
        page.set_default_timeout(PATIENCE)
        page.add_init_script("addEventListener('pageshow', (event) => { window.remembered = event.persisted; })")
        listed(base, page, 60)
        page.locator("tbody input[type=checkbox]").first.check()
        follow(page, "text=Next")
        page.locator("tbody input[type=checkbox]").first.check()
        page.go_back(wait_until="commit")
        page.wait_for_function("window.remembered")
        playwright.expect(page.locator("#compare-count")).to_have_text("2")
        outputs.run("toys/many/later/seed0")
        playwright.expect(page.locator(".states a").first).to_contain_text("all 61")
        assert page.locator("#compare-count").inner_text() == "2"
        assert page.locator("#live").inner_text() == "live"
    finally:
        browser.close()


def test_a_run_named_like_a_script_is_text(outputs, serve, visit) -> None:
    outputs.run("toys/wide/evil/seed0", arm="<script>document.title='gone'</script>")
    base = serve(outputs)
    page = visit(base)
    listed(base, page, 1)
    assert "<script>document.title" in page.locator("tbody").inner_text()
    follow(page, "tbody a")
    assert "<script>document.title" in page.locator("h1").inner_text()
    assert page.title() != "gone"


def test_the_theme_is_chosen_and_kept(outputs, serve, visit) -> None:
    outputs.run("toys/wide/abc/seed0")
    base = serve(outputs)
    page = visit(base, scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate(background) != light
    page.goto(f"{base}/runs")
    assert page.locator("html").get_attribute("data-theme") == "dark"
    assert page.evaluate(background) != light


@pytest.mark.parametrize("address", ["/", "/runs", "/runs/toys/wide/wideone/seed0", "/papers/toys/wide"])
def test_the_keyboard_reaches_everything(outputs, serve, visit, address) -> None:
    outputs.study()
    base = serve(outputs)
    page = visit(base)
    listed(base, page, 12)
    page.goto(base + address)
    # By place and not by a mark on it: a live update may put new elements in the place of others.
    stops = """() => {
        const kinds = "a[href], button, input, select, summary, [tabindex='0']";
        return [...document.querySelectorAll(kinds)].filter((one) => !one.disabled && one.type !== "hidden"
            && one.getAttribute("tabindex") !== "-1" && (one.checkVisibility() || one.className === "skip"));
    }"""
    wanted = page.evaluate(f"({stops})().map((one) => one.outerHTML)")
    reached = set()
    for _ in range(len(wanted) + 20):
        page.keyboard.press("Tab")
        stop = page.evaluate(f"({stops})().indexOf(document.activeElement)")
        if stop >= 0:
            reached.add(stop)
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", "who tabs must see where they are"
    missed = [wanted[stop] for stop in sorted(set(range(len(wanted))) - reached)]
    assert not missed


def test_a_first_run_shows_up_on_the_empty_page_and_a_real_run_is_followed(outputs, serve, visit, monkeypatch) -> None:
    outputs.outputs.mkdir()
    base = serve(outputs)
    page = visit(f"{base}/runs")
    assert "No run is here yet" in page.locator("main").inner_text()
    playwright.expect(page.locator("#live")).to_have_text("live")
    words = ["run", "--config-dir", str(OUTSIDE / "conf"), "experiment=toy", "trainer.max_epochs=400"]
    words += ["method.pause=0.05", "+logger.csv.every_seconds=0.5"]
    run = subprocess.Popen(
        [sys.executable, "-m", "replicata", *words],
        # A folder of its own for locks: it must not wait for what else is measured on this machine.
        env={**os.environ, "PYTHONPATH": str(OUTSIDE), "OMP_NUM_THREADS": "1", "TMPDIR": str(outputs.root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        row = page.locator("tbody tr")
        playwright.expect(row).to_have_count(1, timeout=120_000)  # without a reload
        follow(page, "tbody a")
        playwright.expect(page.locator("main")).to_contain_text("of 400 epochs")
        (metrics,) = outputs.outputs.glob("toy/*/seed0/metrics.csv")
        seen = []
        while len(seen) < 3 and run.poll() is None:
            done = int(metrics.read_text().splitlines()[-1].split(",")[0]) + 1
            began = time.monotonic()
            while shown(page) < done and time.monotonic() - began < 30 and run.poll() is None:
                time.sleep(0.05)
            if run.poll() is None:
                seen.append(time.monotonic() - began)
            time.sleep(0.6)
        assert seen, f"the run was over too soon: {run.stderr.read()[-500:]}"
        assert min(seen) < 3, seen
        run.kill()
        run.wait()
        playwright.expect(page.locator(".head .chip")).to_contain_text("interrupted")
        assert "replicata resume outputs/toy" in page.locator("#repeat").inner_text()
    finally:
        run.kill()
        run.wait()


def shown(page) -> int:
    """The epoch that a run's page shows."""
    words = page.locator(".run-progress").first
    text = words.inner_text() if words.count() else "400 of 400"
    return int(text.split(" of ")[0])


def test_static_pages_work_from_the_disk(outputs, replicata, visit) -> None:
    outputs.study()
    called = replicata("report", "--html", "site", "--config-dir", "conf", "paths.cache=cache")
    assert called.status == 0, called.err
    page = visit(Path("site/index.html").resolve().as_uri())
    page.fill("[name=text]", "dagnn")
    assert page.locator("[data-paper]:visible").count() == 1
    page.fill("[name=text]", "wide")
    follow(page, "[data-paper='toys/wide'] a")
    page.locator("polyline.line").nth(3).wait_for(state="attached")
    follow(page, "nav >> text=Runs")
    page.click("thead >> text=Seed")
    assert page.locator("tbody tr td:nth-child(3)").first.inner_text() == "2"
    page.fill("#table-filter", "narrow")
    assert page.locator("tbody tr:visible").count() == 6
    follow(page, "tbody tr:visible a")
    playwright.expect(page.locator("h1")).to_contain_text("narrow")
