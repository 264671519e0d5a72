"""The web side of an engine inside an app of yours.

`uvicorn examples.rest_app:app` serves it, and `python -m examples.rest_app` is a client.

The app lets in who has one of its keys, and what a key may do is up to the app; everything under `/flow` is the
engine's: REST, events, webhooks. The client submits a report, follows it as it is made, and fetches what came of it. It
may go away and come back at any time: the run goes on.
"""

from __future__ import annotations

import json
import sys
from datetime import date

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount

from flowstone_async import Daily, Engine, Pipeline, User

days = Daily("2025-01-01")
pipe = Pipeline("reports")
KEYS = {"key-of-ada": User("ada", roles={"operator"}), "key-of-eve": User("eve", roles={"viewer"})}


@pipe.asset(partitions=days)
async def visits(partition: date) -> dict[str, int]:
    """Count a day's visits; here they are made up."""
    return {page: partition.day * len(page) for page in ("/", "/about", "/shop")}


@pipe.asset(partitions=days)
async def report(visits: dict[str, int]) -> str:
    """Say which page was the most visited."""
    best = max(visits, key=visits.__getitem__)
    return f"{best} with {visits[best]} visits"


async def holder(request: Request) -> User | None:
    """Return whose key a request has; look it up wherever you keep yours."""
    return KEYS.get(request.headers.get("x-api-key", ""))


engine = Engine(pipe)
app = Starlette(lifespan=engine.lifespan, routes=[Mount("/flow", app=engine.asgi(auth=holder))])


def main(address: str = "http://127.0.0.1:8000", day: str = "2025-01-15") -> None:
    """Have a report made, and print what happens."""
    with httpx.Client(base_url=f"{address}/flow/api/v1", headers={"X-Api-Key": "key-of-ada"}, timeout=60) as client:
        order = {"targets": ["report"], "partition": day}
        run = client.post("/runs", json=order, headers={"Idempotency-Key": f"report {day}"}).raise_for_status().json()
        with client.stream("GET", f"/runs/{run['id']}/events") as events:
            for line in events.iter_lines():
                if line.startswith("data: "):
                    event = json.loads(line.removeprefix("data: "))
                    print(event["type"], event.get("asset", ""))
        value = client.get("/assets/report/value", params={"partition": day}).raise_for_status().json()
        print(value["value"])


if __name__ == "__main__":
    main(*sys.argv[1:])
