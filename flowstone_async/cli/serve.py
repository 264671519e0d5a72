"""`flowstone serve`: the web side of an engine, and the engine, in one process until it is stopped."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, NamedTuple

import anyio

from flowstone_async._engine.asgi import AsgiApp, missing
from flowstone_async.cli.call import EXPECTED, code_for
from flowstone_async.cli.job import Job
from flowstone_async.cli.output import OutputError, ReaderGone
from flowstone_async.cli.project import expanded
from flowstone_async.cli.stops import Stops
from flowstone_async.cli.usage import UsageError, read_duration
from flowstone_async.cli.worker import shown
from flowstone_async.engine import Engine
from flowstone_async.errors import ConfigError

_logger = logging.getLogger("flowstone")
_MOST_PORT = 65535
_GRACE = 30.0
_WAITING = 2048


class Given(NamedTuple):
    """What the command line says of a server.

    Attributes:
        token: Lets one in, besides those of the store; None for only these.
        made: Whether it was made here, so that it has to be told.
        grace: Seconds that requests have when the server is stopped.
    """

    host: str
    port: int
    token: str | None
    made: bool
    root_path: str
    grace: float


def serve(job: Job) -> int:
    """Serve until a signal comes, and return the exit code."""
    given = _given(job)
    _ = job.pipelines  # imported before there is an event loop: the user's modules may run one of their own
    with asyncio.Runner() as runner:
        return runner.run(_stoppable(job, given))


def _given(job: Job) -> Given:
    options = job.options
    if options.port > _MOST_PORT:
        raise UsageError(f"--port {options.port}: there is no such port", "Ports are 0 to 65535.")
    if options.root_path and (not options.root_path.startswith("/") or options.root_path.endswith("/")):
        raise UsageError(f"--root-path {options.root_path} is no path", "Write it like /flow.")
    if options.token is not None and "$" not in options.token:
        raise UsageError(
            "--token is written out, for everybody to read", "Name a variable that holds it: '$FLOWSTONE_TOKEN'."
        )
    token = None if options.token is None else expanded(options.token, "--token")
    if job.store().startswith("postgres") and job.secrets() is None:
        raise UsageError(
            "on a Postgres of your own, there is no secret to check tokens of gates with",
            "Name a variable that holds one of 32 bytes or more: --secret '$FLOWSTONE_SECRET'.",
        )
    made = token is None and _is_loopback(options.host)
    if token is None and not made and job.store() == "memory":
        raise UsageError(
            f"--host {options.host} can be reached from elsewhere, and there is no --token",
            "Say who may come in: --token '$FLOWSTONE_TOKEN'; or name a store that has tokens, of `flowstone tokens`.",
        )
    if token is not None:
        job.output.hide([token])
    grace = _GRACE if options.grace is None else read_duration(options.grace, what="--grace")
    return Given(
        options.host, options.port, secrets.token_urlsafe(32) if made else token, made, options.root_path, grace
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _stoppable(job: Job, given: Given) -> int:
    stops = Stops()
    with stops.caught():
        try:
            code = await _served(job, given, stops)
        except asyncio.CancelledError:
            if not stops.count:
                raise
            _logger.info("stopped" if stops.count == 1 else "stopped without waiting")
            code = stops.code
        except EXPECTED as error:
            code = code_for(error, job)
        job.output.end_within(code)
        return code


async def _served(job: Job, given: Given, stops: Stops) -> int:
    engine = Engine(
        *job.pipelines,
        store=job.store(),
        slots=job.options.slots,
        grace=given.grace,
        secret=job.secrets(),
        base_url=job.base_url(),
    )
    job.output.share(engine.redactor)
    app: Any = engine.asgi(auth=given.token)
    with _listening(given) as listening:
        server = _server(app, given)
        async with engine:
            stops.stands()
            async with anyio.create_task_group() as group:
                group.start_soon(server.serve, [listening], name="serve HTTP")
                _tell_ready(job, given, engine, listening)
                await stops.asked.wait()
                _logger.info("%s: no more requests are taken", stops.first)
                app.drain()
                server.should_exit = True
    _logger.info("stopped")
    return stops.code


@contextmanager
def _listening(given: Given) -> Generator[socket.socket]:
    try:
        found = socket.getaddrinfo(given.host, given.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        listening = socket.create_server(address, family=family, backlog=_WAITING)
    except (OSError, UnicodeError) as error:
        reason = str(getattr(error, "strerror", None) or error).partition(" (while ")[0]
        raise ConfigError(
            f"cannot listen on {given.host}:{given.port}: {reason}",
            hint="Give another port with --port (0 picks one), or another host with --host.",
        ) from error
    with listening:
        yield listening


def _server(app: AsgiApp, given: Given) -> Any:
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise missing("uvicorn") from error

    class Server(uvicorn.Server):
        """Leaves signals to the command."""

        @contextmanager
        def capture_signals(self) -> Generator[None]:
            yield

    # What uvicorn would read from the environment is said here.
    return Server(
        uvicorn.Config(
            app,
            interface="asgi3",
            lifespan="off",
            ws="none",
            workers=1,
            forwarded_allow_ips="127.0.0.1,::1",
            root_path=given.root_path,
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(given.grace)),
        )
    )


def _tell_ready(job: Job, given: Given, engine: Engine, listening: socket.socket) -> None:
    output, options = job.output, job.options
    pipelines, store = [each.name for each in engine.pipelines], shown(job.store())
    host, port = listening.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if given.made:
        output.say(f"no --token was given: until it is stopped, the server takes the bearer token {given.token}")
    try:
        if options.json or not output.terminal:
            facts = {"url": url, "pipelines": pipelines, "slots": options.slots, "store": store}
            output.json({"type": "serve.ready", **facts})
        else:
            output.show(f"serving {', '.join(pipelines)} on {store} at {url}")
    except (OutputError, ReaderGone) as error:
        _logger.warning("ready, but nobody could be told: %s", str(error) or "standard output is closed")
