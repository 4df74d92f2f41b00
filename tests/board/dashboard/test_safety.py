"""What the server refuses, and that text from records is never markup."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from replicata.board.dashboard.app import image, listen

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def everything(outputs, client) -> list[tuple[str, str]]:
    """All pages of runs whose every text is markup."""
    outputs.study()
    for at in (0, 1):
        directory = outputs.run(
            f"toys/wide/evil/seed{at}",
            status="failed",
            arm=EVIL,
            config={
                "optimizer.name": EVIL,
                f"model.{EVIL}": at,
                "search": {"storage": EVIL, "trial": at, "metric": EVIL},
            },
            metrics={EVIL: 0.5 + at, "test/acc": 0.5 + at},
            curves={"<script>x</script>": [0.1, 0.2]},
            error={"message": EVIL, "kind": EVIL},
            versions={EVIL: EVIL},
            git={"revision": EVIL, "dirty": True},
            hardware={"processor": EVIL, "gpus": [EVIL]},
            data={"target": EVIL, "fingerprint": EVIL},
            arms={EVIL: {EVIL: 0.1}},
            stages={EVIL: {"directory": EVIL, "hash": EVIL, "seconds": 1.0}},
            started=EVIL,
        )
        (directory / "log.txt").write_text(EVIL)
    outputs.run('toys/<script>alert("name")</script>/abc/seed0'.replace("/script", "script"))
    one = client(outputs)
    paths = [f"toys/wide/evil/seed{at}" for at in (0, 1)]
    addresses = [
        *("/", "/runs", "/sweeps", "/papers/toys/wide", "/runs?group=arm", f"/runs/{paths[0]}"),
        *("/runs?experiment=toys/wide", f"/compare?run={paths[0]}&run={paths[1]}", "/sweep?experiment=toys/wide"),
        *(f"/runs?q={EVIL}", f"/runs?sort={EVIL}", f"/runs?experiment={EVIL}", f"/runs?columns={EVIL}"),
        *(
            f"/papers/{EVIL}",
            f"/runs/{EVIL}",
            f"/sweep?metric={EVIL}&search={EVIL}",
            f"/compare?run={EVIL}",
            f"/{EVIL}",
        ),
    ]
    return [(address, one.get(address).text) for address in addresses]


def test_markup_in_records_and_addresses_is_shown_as_text(outputs, client) -> None:
    pages = everything(outputs, client)
    for address, text in pages:
        assert "<script>alert" not in text, address
        assert "<script>x" not in text, address
        assert "<img src=x" not in text, address
        assert 'onerror="' not in text, address
    seen = "".join(text for _, text in pages)
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in seen


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7330", "127.0.0.1.evil.example", "0.0.0.0", ""])
def test_another_host_name_is_refused(outputs, client, host) -> None:
    answer = client(outputs).get("/", headers={"host": host})
    assert answer.status_code == 400
    assert "Board" not in answer.text


@pytest.mark.parametrize("host", ["127.0.0.1:7330", "localhost:7330", "localhost"])
def test_this_machine_is_served(outputs, client, host) -> None:
    assert client(outputs).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "address", ["/", "/runs", "/runs/toys/wide/abc/seed0", "/files/x/figures/a.png", "/static/app.js"]
)
def test_nothing_can_be_changed(outputs, client, method, address) -> None:
    outputs.run("toys/wide/abc/seed0")
    assert client(outputs).request(method, address).status_code == 405


SECRETS = [
    *(
        "../secret/figures/a.png",
        "..%2Fsecret%2Ffigures%2Fa.png",
        "%2e%2e/secret/figures/a.png",
        "toys/../../secret/figures/a.png",
    ),
    *(
        "toys/figures/../../../secret/figures/a.png",
        "toys/figures/link.png",
        "toys/linked/figures/a.png",
        "//etc/figures/a.png",
    ),
    *("toys/figures/run.json", "toys/figures/a.png%00.txt", "toys/figures/a.txt", "toys/plain.png", "toys/figures", ""),
    *("..\\secret\\figures\\a.png", "%252e%252e/secret/figures/a.png", "/etc/passwd", "toys/figures/passwd.svg"),
]


@pytest.fixture
def secrets(outputs, tmp_path):
    outputs.run("toys/wide/abc/seed0")
    secret = tmp_path / "secret" / "figures"
    secret.mkdir(parents=True)
    (secret / "a.png").write_text("SECRET")
    figures = outputs.outputs / "toys" / "figures"
    figures.mkdir()
    for name in ("run.json", "a.txt"):
        (figures / name).write_text("SECRET")
    (outputs.outputs / "toys/plain.png").write_text("SECRET")
    (figures / "link.png").symlink_to(secret / "a.png")
    (figures / "passwd.svg").symlink_to("/etc/passwd")
    (outputs.outputs / "toys/linked").symlink_to(tmp_path / "secret")
    (figures / "good.svg").write_text("<svg/>")
    return outputs


@pytest.mark.parametrize("path", SECRETS)
def test_nothing_outside_the_figures_of_the_outputs_folder_is_served(secrets, client, path) -> None:
    answer = client(secrets).get(f"/files/{path}")
    assert answer.status_code == 404
    assert "SECRET" not in answer.text
    assert "root:" not in answer.text


@pytest.mark.parametrize("path", SECRETS)
def test_the_check_itself_refuses_raw_paths(secrets, path) -> None:
    assert image(secrets.outputs, path) is None


def test_a_figure_is_served_and_cannot_run_scripts(secrets, client) -> None:
    answer = client(secrets).get("/files/toys/figures/good.svg")
    assert answer.status_code == 200
    assert answer.text == "<svg/>"
    assert "sandbox" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path", ["../app.py", "..%2fapp.py", "%2e%2e/templates/base.html", "/etc/passwd", "../../../cli.py"]
)
def test_the_static_folder_holds_nothing_else(outputs, client, path) -> None:
    answer = client(outputs).get(f"/static/{path}")
    assert answer.status_code == 404
    assert "import" not in answer.text


@pytest.mark.parametrize(
    "path", ["../secret", "toys/wide/abc/seed0/../../../../secret", "toys/wide/abc/seed0/run.json", "/etc"]
)
def test_the_address_of_a_run_is_no_path(secrets, client, path) -> None:
    answer = client(secrets).get(f"/runs/{path}".replace("..", "%2e%2e"))
    assert answer.status_code == 404


def test_headers_forbid_what_pages_do_not_need(outputs, client) -> None:
    headers = client(outputs).get("/").headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in headers


def test_it_listens_on_this_machine_only() -> None:
    opened = listen(0)
    try:
        assert opened.getsockname()[0] == "127.0.0.1"
    finally:
        opened.close()


def test_a_port_that_is_taken_is_one_line(replicata) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        called = replicata("dashboard", "--port", port)
    assert called.status == 2
    assert called.err.startswith(f"replicata: --port {port}: ")
    assert len(called.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "many"], "--port must be a number"),
        (["--port"], "--port needs a value"),
        (["--prt=1"], "did you mean '--port'"),
        (["toys/wide"], "is not understood"),
        (["--html=x"], "is not understood"),
    ],
)
def test_a_wrong_command_line_is_one_line(replicata, words, said) -> None:
    called = replicata("dashboard", *words)
    assert called.status == 2
    assert said in called.err
    assert len(called.err.splitlines()) == 1


def test_an_outputs_folder_that_cannot_hold_the_index_is_no_obstacle(outputs, tmp_path, capsys) -> None:
    from replicata.board.dashboard.index import Index

    outputs.run("toys/wide/abc/seed0")
    (tmp_path / "file").write_text("")
    index = Index(outputs.outputs, tmp_path / "file" / "below" / "index.sqlite")
    assert index.refresh() == {"toys/wide/abc/seed0"}
    assert "cannot be written" in capsys.readouterr().err


def test_outputs_stay_as_they_are(outputs, client) -> None:
    outputs.study()
    before = {path: path.stat().st_mtime_ns for path in outputs.outputs.rglob("*")}
    one = client(outputs)
    for address in (
        "/",
        "/papers/toys/wide",
        "/runs",
        "/runs/toys/wide/wideone/seed0",
        "/sweeps",
        "/sweep?experiment=toys/wide",
    ):
        assert one.get(address).status_code == 200
    assert {path: path.stat().st_mtime_ns for path in outputs.outputs.rglob("*")} == before


def test_it_stops_at_once_although_a_page_is_open(outputs, tmp_path) -> None:
    outputs.run("toys/wide/abc/seed0")
    words = [sys.executable, "-m", "replicata", "dashboard", "--port", "0", "paths.cache=cache"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        address = re.search(r"http://\S+", server.stdout.readline())[0]
        with httpx.stream("GET", f"{address}/events", timeout=60) as events:
            assert next(events.iter_lines()).startswith("retry")
            server.send_signal(signal.SIGINT)
            _, said = server.communicate(timeout=60)
    assert server.returncode == 0
    assert said == ""


def test_the_help_is_quick_to_say(tmp_path) -> None:
    code = "import sys; from replicata.cli import main; main(['--help']); print('starlette' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "dashboard" in done.stdout
    assert done.stdout.strip().endswith("False")
