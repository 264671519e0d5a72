"""Ten thousand jobs of a service that calls back when it is done, restarted half-way.

    python examples/remote_jobs.py

plays both sides on this machine, with a store in the present folder: a service that takes orders and calls back, and a
worker that orders a job for each item and returns the gate for its callback. **While the service works nothing of an
item is held here**: no task, no connection, no place. Half-way the worker is killed and started again: what was ordered
is not ordered again, and callbacks that nobody took are sent again, as any such service does.
`python examples/remote_jobs.py 500` orders five hundred. Needs the extra `ui`, and httpx.
"""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flowstone_async import Context, Engine, Gathered, Pipeline, Rearm, Retry, SignalGate

HOST = "127.0.0.1"
ACCEPTED, TOO_MANY = 202, 429


@dataclass
class Jobs:
    """What is ordered, and where."""

    count: int
    service: str


@dataclass
class Rendered:
    """What the service sends once a job is done."""

    url: str


pipe = Pipeline("remote_jobs", params=Jobs)


@pipe.resource(scope="run")
async def client(params: Jobs) -> AsyncGenerator[httpx.AsyncClient]:
    """Keep connections to the service open for as long as the run goes on."""
    async with httpx.AsyncClient(base_url=params.service, timeout=30) as opened:
        yield opened


@pipe.asset
async def videos(params: Jobs) -> list[int]:
    """Number the videos that are to be rendered."""
    return list(range(params.count))


@pipe.scatter(videos, signal=Rendered, max_concurrent=50, retry=Retry(5))
async def rendered(video: int, client: httpx.AsyncClient, ctx: Context) -> str | SignalGate[Rendered]:
    """Order one video, and wait for the callback without being there."""
    gate = ctx.signal(Rendered, timeout="1h")

    async def order() -> int:
        job = {"video": video, "callback": gate.url, "key": ctx.idempotency_key}
        return (await client.post("/jobs", json=job)).raise_for_status().status_code

    await ctx.step(order)
    return gate


@rendered.on_signal
async def video_is_there(video: int, done: Rendered) -> str:
    """Make the result of what the service has sent."""
    return f"{video}: {done.url}"


@rendered.on_timeout
async def video_is_late(video: int) -> Rearm:
    """Wait once more; ask the service about it here."""
    del video
    return Rearm("1h")


@rendered.gather
async def report(results: Gathered[str]) -> str:
    """Say what there is."""
    return f"{results.succeeded:,} videos are there"


# -- the worker -------------------------------------------------------------------------------------------------------


async def work(count: int, service: str, port: int) -> None:
    """Order what is to be ordered, take callbacks, and end with the report."""
    engine = Engine(pipe, base_url=f"http://{HOST}:{port}", poll="200ms")
    async with engine, served(engine.asgi(auth=False), port):
        run = await engine.submit(report, params=Jobs(count, service), key=f"{count} videos of {service}")
        print(await run.result())


# -- the other side ---------------------------------------------------------------------------------------------------


class Service:
    """Takes orders, and calls back in its own time, until it was heard."""

    def __init__(self) -> None:
        self.orders, self.callbacks = Counter[str](), dict[str, tuple[int, str]]()
        self.heard, self.changed = 0, asyncio.Event()
        self.app = Starlette(routes=[Route("/jobs", self.take, methods=["POST"])])

    async def take(self, request: Request) -> Response:
        """Take an order; the same key again is the same job."""
        job = await request.json()
        self.orders[job["key"]] += 1
        self.callbacks[job["key"]] = job["video"], job["callback"]
        self.changed.set()
        return Response(status_code=ACCEPTED)

    async def call_back(self) -> None:
        """Call back for all jobs, some at once, in an order of its own."""
        waiting = list(self.callbacks.values())
        random.shuffle(waiting)
        async with httpx.AsyncClient(timeout=30) as client, asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(self.call(client, waiting))

    async def call(self, client: httpx.AsyncClient, waiting: list[tuple[int, str]]) -> None:
        """Call back for what nobody else has."""
        while waiting:
            video, address = waiting.pop()
            while not await self.is_heard(client, video, address):
                pass
            self.heard += 1
            self.changed.set()

    async def is_heard(self, client: httpx.AsyncClient, video: int, address: str) -> bool:
        """Call back once; wait a little where nobody is there, or as long as is asked for."""
        try:
            answer = await client.post(address, json={"url": f"https://videos.example.org/{video}.mp4"})
        except httpx.TransportError:
            await asyncio.sleep(0.2)
            return False
        if answer.status_code == TOO_MANY or answer.is_server_error:
            await asyncio.sleep(float(answer.headers.get("Retry-After", "0.2")))
            return False
        answer.raise_for_status()
        return True

    async def until(self, what: str, count: int) -> None:
        """Return once so many orders were taken, or callbacks heard."""
        while (len(self.callbacks) if what == "orders" else self.heard) < count:
            self.changed.clear()
            await self.changed.wait()


@asynccontextmanager
async def served(app: Any, port: int) -> AsyncGenerator[None]:
    """Serve an app as long as this goes on."""
    server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning"))
    listening = socket.create_server((HOST, port))  # from here on who calls is kept waiting, and not refused
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve([listening]))
        try:
            yield
        finally:
            server.should_exit = True


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def start(*words: object) -> subprocess.Popen[str]:
    """Start the worker."""
    return subprocess.Popen([sys.executable, __file__, "work", *map(str, words)], stdout=subprocess.PIPE, text=True)


async def over(worker: subprocess.Popen[str], what: Coroutine[Any, Any, None]) -> None:
    """Wait for something; a worker that ends before that is a mistake."""
    ends = asyncio.create_task(asyncio.to_thread(worker.wait))
    happens = asyncio.create_task(what)
    await asyncio.wait((ends, happens), return_when=asyncio.FIRST_COMPLETED)
    if not happens.done():
        happens.cancel()
        raise SystemExit(f"the worker has ended with {worker.returncode}")


async def play(count: int) -> None:
    """Play both sides."""
    service, port, worker_port, begun = Service(), free_port(), free_port(), time.monotonic()
    words = count, f"http://{HOST}:{port}", worker_port
    async with served(service.app, port):
        worker = start(*words)
        try:
            await over(worker, service.until("orders", count))
            print(f"{count:,} jobs are ordered after {time.monotonic() - begun:.0f} s; the service calls back")
            async with asyncio.TaskGroup() as group:
                group.create_task(service.call_back())
                await over(worker, service.until("callbacks", count // 2))
                worker.kill()
                worker.wait()
                print(f"{service.heard:,} callbacks were heard; the worker was killed, and is started again")
                worker = start(*words)
                said = (await asyncio.to_thread(worker.communicate))[0].strip()
        finally:
            worker.kill()
            worker.wait()
    again = sum(service.orders.values()) - len(service.orders)
    print(f"{said}, after {time.monotonic() - begun:.0f} s; {again:,} were ordered again")


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        asyncio.run(work(int(sys.argv[2]), sys.argv[3], int(sys.argv[4])))
    else:
        asyncio.run(play(int(sys.argv[1]) if sys.argv[1:] else 10_000))
