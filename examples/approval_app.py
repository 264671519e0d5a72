"""A web app whose handlers await a decision.

`uvicorn examples.approval_app:app` serves it, and `python -m examples.approval_app` is a client.

`POST /trades/{shares}` submits a trade. `GET /trades/{run}` awaits what comes of it, 20 s at most: a large trade waits
until somebody of `risk` has decided, under `/flow`. Whoever waits may go away and ask again, and the app may be
restarted meanwhile: the run waits in the database, and holds nothing else.
"""

from __future__ import annotations

import sys

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from flowstone_async import ApprovalGate, Engine, Keys, Pipeline, Rejected, RunNotFound, TimedOut, User

SMALL = 10
pipe = Pipeline("trades")
PEOPLE = {"key-of-ada": User("ada", roles={"viewer", "risk"}), "key-of-eve": User("eve", roles={"operator"})}


@pipe.asset(partitions=Keys(*map(str, range(1, 1001))))
async def trade(partition: str) -> str | ApprovalGate[str]:
    """Book a trade of so many shares: a large one once somebody has said yes."""
    order = f"{partition} shares"
    if int(partition) <= SMALL:
        return order
    return ApprovalGate(f"Buy {partition} shares?", value=order, roles=["risk"], timeout="4h")


async def person(request: Request) -> User | None:
    """Return whose key a request has; look it up wherever you keep yours."""
    return PEOPLE.get(request.headers.get("x-api-key", ""))


async def submit(request: Request) -> JSONResponse:
    """Submit a trade; an equal one that goes on is joined."""
    run = await engine.submit(trade, partition=str(request.path_params["shares"]))
    return JSONResponse({"run": run.id}, status_code=202)


async def await_trade(request: Request) -> JSONResponse:
    """Await the decision, and the trade; a client that goes away ends nothing."""
    try:
        run = await engine.find(request.path_params["run"])
        return JSONResponse({"state": "booked", "trade": await run.result(timeout="20s")})
    except RunNotFound as error:
        return JSONResponse({"error": error.message}, status_code=404)
    except Rejected as refused:  # also if nobody has decided within four hours
        return JSONResponse({"state": "refused", "by": refused.by, "reason": refused.reason})
    except TimedOut:
        return JSONResponse({"state": "waiting"}, status_code=202)


engine = Engine(pipe)
app = Starlette(
    lifespan=engine.lifespan,
    routes=[
        Route("/trades/{shares:int}", submit, methods=["POST"]),
        Route("/trades/{run}", await_trade),
        Mount("/flow", app=engine.asgi(auth=person)),
    ],
)


def main(address: str = "http://127.0.0.1:8000", shares: str = "500", decision: str = "approve") -> None:
    """Submit a trade, decide it as Ada, and print what comes of it."""
    ada = {"X-Api-Key": "key-of-ada"}
    with httpx.Client(base_url=address, headers=ada, timeout=60) as client:
        run = client.post(f"/trades/{shares}").raise_for_status().json()["run"]
        while int(shares) > SMALL:
            waiting = client.get("/flow/api/v1/approvals", params={"role": "risk"}).raise_for_status().json()
            if mine := [each for each in waiting["approvals"] if each["run_id"] == run]:
                print("asked:", mine[0]["text"])
                answer = client.post(f"/flow/api/v1/approvals/{mine[0]['id']}/{decision}", json={"reason": "I know"})
                print("decided by", answer.raise_for_status().json()["by"])
                break
        print(client.get(f"/trades/{run}").raise_for_status().json())


if __name__ == "__main__":
    main(*sys.argv[1:])
