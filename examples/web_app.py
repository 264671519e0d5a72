"""A pipeline inside a web app: `uvicorn examples.web_app:app`.

`GET /total/{day}` awaits a run inside the handler: a client that goes away cancels it, unless another one waits for the
same. `POST /total/{day}` submits one and answers at once: nobody need stay. `GET /runs/{id}` says how it is.
"""

from __future__ import annotations

from datetime import date

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from flowstone_async import Daily, Engine, FlowstoneError, PartitionError, Pipeline, RunNotFound

days = Daily("2025-01-01")
pipe = Pipeline("shop")


@pipe.asset(partitions=days)
async def orders(partition: date) -> list[int]:
    """Fetch a day's orders; here they are made up."""
    return [partition.day * factor for factor in (3, 5, 7)]


@pipe.asset(partitions=days)
async def total(orders: list[int]) -> int:
    """Sum a day's orders."""
    return sum(orders)


engine = Engine(pipe)


async def show_total(request: Request) -> JSONResponse:
    """Run, or reuse what is stored, and answer with the value."""
    day = days.parse(request.path_params["day"])
    return JSONResponse({"day": str(day), "total": await engine.run(total, partition=day)})


async def submit_total(request: Request) -> JSONResponse:
    """Start a run that goes on whoever leaves."""
    run = await engine.submit(total, partition=days.parse(request.path_params["day"]))
    return JSONResponse({"run": run.id}, status_code=202)


async def show_run(request: Request) -> JSONResponse:
    """Say how a run is."""
    run = await engine.find(request.path_params["run_id"])
    return JSONResponse({"run": run.id, "state": (await run.status()).state})


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Answer with the error's own words."""
    status = 404 if isinstance(error, RunNotFound) else 422 if isinstance(error, PartitionError) else 500
    known = isinstance(error, FlowstoneError)
    body = {"code": error.code, "message": error.message, "hint": error.hint} if known else {}
    return JSONResponse(body, status_code=status)


app = Starlette(
    lifespan=engine.lifespan,
    routes=[
        Route("/total/{day}", show_total),
        Route("/total/{day}", submit_total, methods=["POST"]),
        Route("/runs/{run_id}", show_run),
    ],
    exception_handlers={FlowstoneError: refuse},
)
