"""The server: pages, their live updates, images of figures. It answers this machine only, and changes nothing.

    serve(Settings(outputs, dirs, results, cache), port=7330)

One thread watches the outputs folder, a second one works out verdicts, a third one commands; pages are made on
Starlette's own threads from what these have left in the index. A page that is open is told which runs have changed by
server-sent events and asks for itself again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from replicata.board.dashboard.index import Index
from replicata.board.dashboard.pages import HERE, IMAGES, NoPage, Pages, Served
from replicata.board.dashboard.papers import Library
from replicata.board.dashboard.query import RunQuery
from replicata.board.dashboard.repeat import Command, Repeater
from replicata.errors import UserError

HOST = "127.0.0.1"
PORT = 7330
NEXT_PORTS = 20
FOLLOW = 0.5  # seconds between two looks at the runs that are going
REFRESH = 1.5  # and between two looks at the whole folder, or longer where that takes long
IDLE = 10.0  # where nobody has a page open
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'"
)


FIGURE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # an SVG may hold scripts
ALWAYS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
}


@dataclass(frozen=True)
class Settings:
    """What a dashboard shows.

    Attributes:
        outputs: Folder of runs.
        dirs: Folders of config groups.
        results: Folder of committed results.
        cache: Folder in which the index is kept.
    """

    outputs: Path
    dirs: Sequence[Path]
    results: Path
    cache: Path

    def index(self) -> Index:
        """The index of the runs; every outputs folder has a file of its own."""
        digest = hashlib.sha256(str(self.outputs.expanduser().resolve()).encode()).hexdigest()[:16]
        return Index(self.outputs, self.cache / "dashboard" / f"{digest}.sqlite")


class Hub:
    """Tells open pages what has changed, from any thread."""

    def __init__(self) -> None:
        self.listeners: set[tuple[asyncio.AbstractEventLoop, asyncio.Queue[list[str]]]] = set()

    def publish(self, topics: Iterable[str]) -> None:
        said = sorted(set(topics))
        for loop, queue in list(self.listeners) if said else ():
            loop.call_soon_threadsafe(queue.put_nowait, said)

    def close(self) -> None:
        """End what all pages are told, so that the server can stop."""
        for loop, queue in list(self.listeners):
            loop.call_soon_threadsafe(queue.put_nowait, [])

    async def events(self, first: list[str]) -> AsyncIterator[str]:
        """What one page is told."""
        listener = (asyncio.get_running_loop(), asyncio.Queue[list[str]]())
        self.listeners.add(listener)
        try:
            yield "retry: 1000\n\n"
            if first:
                yield _event(first)
            while True:
                try:
                    topics = await asyncio.wait_for(listener[1].get(), 15)
                except TimeoutError:
                    yield ": nothing new\n\n"
                    continue
                if not topics:
                    return
                yield _event(topics)
        finally:
            self.listeners.discard(listener)


def _event(topics: list[str]) -> str:
    return f"event: changed\ndata: {json.dumps(topics)}\n\n"


class Watcher:
    """Keeps the index and the verdicts up to date.

    Args:
        index: The runs.
        library: The papers.
        hub: Is told what has changed.
    """

    def __init__(self, index: Index, library: Library, hub: Hub) -> None:
        self.index, self.library, self.hub = index, library, hub
        self.going: set[str] = set()
        self.stopped = threading.Event()
        self.stale = threading.Event()
        self.threads = [threading.Thread(target=loop, daemon=True) for loop in (self._watch, self._judge)]

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopped.set()
        self.stale.set()

    def _watch(self) -> None:
        next_refresh = 0.0
        while not self.stopped.is_set():
            now = time.monotonic()
            try:
                if now >= next_refresh:
                    changed = self.index.refresh()
                    took = time.monotonic() - now
                    pause = REFRESH if self.hub.listeners else IDLE
                    next_refresh = time.monotonic() + max(pause, 5 * took)
                else:
                    changed = self.index.follow()
                if changed:
                    self._tell(changed)
            except Exception as error:  # whatever happens to one look, the next one may succeed
                print(f"replicata: dashboard: {type(error).__name__}: {error}", file=sys.stderr)
                next_refresh = now + 5
            self.stopped.wait(FOLLOW)
            if self.hub.listeners and next_refresh > time.monotonic() + max(REFRESH, 1):
                next_refresh = min(next_refresh, time.monotonic() + REFRESH)

    def _tell(self, changed: set[str]) -> None:
        going = {row["path"] for row in self.index.rows("SELECT path FROM runs WHERE status = 'running'")}
        self.hub.publish(["runs", *(f"run:{path}" for path in changed if not path.startswith("study:"))])
        if any(path.startswith("study:") or path not in going or path not in self.going for path in changed):
            self.stale.set()  # not only the numbers of runs that go on
        self.going = going

    def _judge(self) -> None:
        """Work out the board anew when something has changed, and tell it."""
        before: dict[str, Any] = {}
        while not self.stopped.is_set():
            self.stale.wait()
            if self.stopped.is_set():
                return
            self.stale.clear()
            began = time.monotonic()
            try:
                rows = {row.name: row for row in self.library.board()}
                news = [f"study:{name}" for name, row in rows.items() if before.get(name) != row]
                if news:
                    self.hub.publish(["board", *news])
                before = rows
            except Exception as error:  # as above
                print(f"replicata: dashboard: {type(error).__name__}: {error}", file=sys.stderr)
            self.stopped.wait(max(1.0, 3 * (time.monotonic() - began)))  # leave most of the time to others


class Commands:
    """Finds the commands of runs beside everything else."""

    def __init__(self, repeater: Repeater, hub: Hub) -> None:
        self.repeater, self.hub = repeater, hub
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="commands")
        self.sought: dict[tuple[str, str], Future[Command | None]] = {}

    def wanted(self, path: str) -> Command | bool | None:
        """The command of a run; ``True`` as long as it is sought."""
        stamp = self.repeater.index.rows("SELECT hash || seed FROM runs WHERE path = ?", [path])
        key = (path, str(stamp[0][0]) if stamp else "")
        if key not in self.sought:
            future = self.sought[key] = self.pool.submit(self.repeater.command, path)
            future.add_done_callback(lambda _: self.hub.publish([f"run:{path}", "runs"]))
            try:
                return future.result(timeout=0.05)
            except TimeoutError:
                return True
        future = self.sought[key]
        return future.result() if future.done() else True


class Guard:
    """Headers that keep pages from doing what they should not, whatever a record holds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                headers.setdefault(b"content-security-policy", POLICY.encode())
                headers |= ALWAYS
                headers.setdefault(b"cache-control", b"no-cache")
                message = {**message, "headers": list(headers.items())}
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


def create_app(settings: Settings, *, watch: bool = True) -> Starlette:
    """The application.

    Args:
        settings: What is shown.
        watch: Whether to keep the index up to date; without it the index is brought up to date once, before.
    """
    index = settings.index()
    library = Library(settings.dirs, settings.results, index)
    hub = Hub()
    commands = Commands(Repeater(settings.dirs, index), hub)
    pages = Pages(library, index, commands.repeater, Served(), commands.wanted)
    watcher = Watcher(index, library, hub)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if watch:
            watcher.start()
        else:
            index.refresh()
        yield
        watcher.stop()
        commands.pool.shutdown(wait=False, cancel_futures=True)

    def answer(make: Callable[[], str]) -> Response:
        try:
            try:
                return HTMLResponse(make())
            except sqlite3.DatabaseError:  # damaged while it was open
                index.mend()
                return HTMLResponse(make())
        except NoPage as error:
            return HTMLResponse(pages.missing(str(error.args[0])), status_code=404)

    def board(request: Request) -> Response:
        return answer(lambda: pages.board(wait=not watch))

    def paper(request: Request) -> Response:
        return answer(lambda: pages.paper(request.path_params["name"]))

    def runs(request: Request) -> Response:
        return answer(lambda: pages.runs(RunQuery.of(request.query_params)))

    def run(request: Request) -> Response:
        return answer(lambda: pages.run(request.path_params["path"]))

    def compare(request: Request) -> Response:
        return answer(lambda: pages.compare(request.query_params.getlist("run")))

    def sweep_list(request: Request) -> Response:
        return answer(pages.sweeps)

    def sweep(request: Request) -> Response:
        said = request.query_params
        return answer(lambda: pages.sweep(RunQuery.of(said), said.get("metric", ""), said.get("goal", "")))

    def file(request: Request) -> Response:
        found = image(index.outputs, request.path_params["path"])
        if found is None:
            return HTMLResponse(pages.missing("there is no such figure"), status_code=404)
        return FileResponse(found, headers={"content-security-policy": FIGURE_POLICY})

    async def events(request: Request) -> Response:
        first = [] if request.query_params.get("since") == str(index.version) else ["*"]
        return StreamingResponse(hub.events(first), media_type="text/event-stream")

    def nowhere(request: Request, error: Exception) -> Response:
        return HTMLResponse(pages.missing(f"there is no page {request.url.path}"), status_code=404)

    app = Starlette(
        routes=[
            Route("/", board),
            Route("/papers/{name:path}", paper),
            Route("/runs", runs),
            Route("/runs/{path:path}", run),
            Route("/compare", compare),
            Route("/sweeps", sweep_list),
            Route("/sweep", sweep),
            Route("/files/{path:path}", file),
            Route("/events", events),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"]), Middleware(Guard)],
        exception_handlers={404: nowhere},
        lifespan=lifespan,
    )
    app.state.hub = hub
    return app


def image(outputs: Path, path: str) -> Path | None:
    """An image in a folder of figures below the outputs folder; nothing else is ever served from there."""
    asked = Path(path)
    if asked.suffix.lower() not in IMAGES or "figures" not in asked.parts[:-1] or "\0" in path:
        return None
    found = (outputs / asked).resolve()  # with all links followed and all dots gone
    return found if found.is_relative_to(outputs.resolve()) and found.is_file() else None


def listen(port: int | None) -> socket.socket:
    """A socket of this machine alone: at the port, or at the first free one from :data:`PORT` on.

    Raises:
        UserError: if the port is taken.
    """
    for at in [port] if port is not None else range(PORT, PORT + NEXT_PORTS):
        opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            opened.bind((HOST, at))
        except OSError as error:
            opened.close()
            if port is not None:
                raise UserError(f"--port {port}: {error.strerror}; choose another port") from None
            continue
        return opened
    raise UserError(f"ports {PORT} to {PORT + NEXT_PORTS - 1} are all in use; choose one with --port")


def serve(settings: Settings, port: int | None) -> None:
    """Serve until interrupted."""
    import uvicorn

    opened = listen(port)
    app = create_app(settings)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, ws="none", server_header=False, timeout_graceful_shutdown=1
    )
    print(f"dashboard: http://{HOST}:{opened.getsockname()[1]}   (Ctrl-C stops it)", flush=True)
    print(f"runs: {settings.outputs}   results: {settings.results}", flush=True)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            app.state.hub.close()  # pages that are open would keep it waiting
            super().handle_exit(sig, frame)

    server = Server(config)
    try:
        server.run(sockets=[opened])
    except KeyboardInterrupt:  # the usual end
        return
    finally:
        opened.close()
