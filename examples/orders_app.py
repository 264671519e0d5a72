"""A shop that never loses an order: `python examples/orders_app.py`, and kill it whenever you like.

`POST /orders` stores the order, takes it out of stock and submits its run in one transaction: all of it, or nothing.
`GET /runs/{id}` says how a run is, and `GET /runs/{id}/events` tells of it as server-sent events; whoever comes back
with `Last-Event-ID` goes on where it stopped, also after the app was started again. A reader that leaves ends no run.

The warehouse is a service elsewhere. A body may ask it again after a crash; it knows the request by `idempotency_key`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import anyio
import asyncpg
import uvicorn
from pydantic import BaseModel, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from flowstone_async import AssetEvent, Context, Engine, Event, FlowstoneError, Pipeline, RunHandle, RunNotFound

TABLES = """
CREATE TABLE IF NOT EXISTS stock (item text PRIMARY KEY, left_over int NOT NULL CHECK (left_over >= 0));
CREATE TABLE IF NOT EXISTS orders (
    id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, item text NOT NULL, quantity int NOT NULL, run uuid);
INSERT INTO stock VALUES ('book', 100), ('lamp', 3) ON CONFLICT DO NOTHING;
"""


class Order(BaseModel):
    """What somebody orders, and what a run is given."""

    item: str
    quantity: int = Field(gt=0)


class Warehouse:
    """Stands for a service elsewhere: it sends one parcel for each key, and forgets none. It takes its time to answer.

    Args:
        folder: Has a file for each parcel, called by its key, and a line in `requests` for each request.
        seconds: How long it takes to answer.
    """

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder, self._seconds = folder, seconds
        folder.mkdir(exist_ok=True)

    async def send(self, key: str, order: Order) -> str:
        """Send a parcel, unless that was done already, and return its number."""
        self._take(key, order)
        await anyio.sleep(self._seconds)
        return f"parcel-{key[:8]}"

    def _take(self, key: str, order: Order) -> None:
        with (self._folder / "requests").open("a") as requests:
            requests.write(f"{key}\n")
        parcel = self._folder / key
        if not parcel.exists():
            parcel.write_text(f"{order.quantity} x {order.item}")


@dataclass
class Receipt:
    """What the shop keeps of an order."""

    order: int
    parcel: str


pipe = Pipeline("orders", params=Order)


@pipe.resource
async def warehouse() -> Warehouse:
    """Return what `flowstone worker` uses; the app gives its engine another."""
    return Warehouse(Path("warehouse"), seconds=1)


# The partition is the number of the order: each order has values of its own, and they are computed side by side.
@pipe.asset
async def parcel(params: Order, ctx: Context, warehouse: Warehouse) -> str:
    """Have the order sent; called again after a crash, with the same key."""
    return await warehouse.send(ctx.idempotency_key, params)


@pipe.asset
async def receipt(parcel: str, partition: int) -> Receipt:
    """Write the receipt."""
    return Receipt(order=partition, parcel=parcel)


async def create_order(request: Request) -> JSONResponse:
    """Store the order and its run; the run begins once both are committed."""
    order = Order.model_validate_json(await request.body())
    engine: Engine = request.app.state.engine
    async with request.app.state.pool.acquire() as conn, conn.transaction():
        insert = "INSERT INTO orders (item, quantity) VALUES ($1, $2) RETURNING id"
        number = await conn.fetchval(insert, order.item, order.quantity)
        run = await engine.submit(receipt, partition=number, params=order, key=f"order:{number}", conn=conn)
        await conn.execute("UPDATE orders SET run = $1 WHERE id = $2", run.id, number)
        # Too few left over is a CheckViolationError: order and run vanish with the transaction.
        take = "UPDATE stock SET left_over = left_over - $1 WHERE item = $2"
        if await conn.execute(take, order.quantity, order.item) == "UPDATE 0":
            raise LookupError(order.item)
    return JSONResponse({"order": number, "run": asdict(run.ref)}, status_code=202)


async def show_run(request: Request) -> JSONResponse:
    """Say how a run is, with its receipt once there is one."""
    run: RunHandle[Receipt] = await request.app.state.engine.find(request.path_params["run_id"])
    state = (await run.status()).state
    found = asdict(await run.result()) if state == "succeeded" else None
    return JSONResponse({"run": run.id, "state": state, "receipt": found})


async def show_events(request: Request) -> StreamingResponse | JSONResponse:
    """Tell of a run, live; ends after `run.finished`, on which a browser's `EventSource` should be closed."""
    seen = request.headers.get("last-event-id", "0")
    if not re.fullmatch("[0-9]{1,9}", seen):
        return JSONResponse({"message": f"Last-Event-ID {seen!r} is none of ours"}, status_code=400)
    run = await request.app.state.engine.find(request.path_params["run_id"])
    return StreamingResponse(
        told(run, after=int(seen)), media_type="text/event-stream", headers={"cache-control": "no-store"}
    )


async def told(run: RunHandle[Receipt], *, after: int) -> AsyncGenerator[str]:
    """Yield the events of a run as an event stream; the number of an event is its id."""
    async for event in run.events(after=after):
        yield f"id: {event.no}\nevent: {event.type}\ndata: {json.dumps(shown(event))}\n\n"


def shown(event: Event) -> dict[str, object]:
    """Return what the outside may know of an event."""
    asset = event.asset if isinstance(event, AssetEvent) else None
    return {"at": event.at.isoformat(), "asset": asset}


async def refuse(_: Request, error: Exception) -> JSONResponse:
    """Answer what went wrong."""
    match error:
        case FlowstoneError():
            status = 404 if isinstance(error, RunNotFound) else 500
            return JSONResponse({"code": error.code, "message": error.message, "hint": error.hint}, status_code=status)
        case asyncpg.CheckViolationError():
            return JSONResponse({"message": "there are not that many left"}, status_code=409)
        case LookupError():
            return JSONResponse({"message": f"there is no item {error.args[0]!r}"}, status_code=422)
        case _:
            return JSONResponse({"message": "send an item, and a quantity of 1 or more"}, status_code=422)


def make_app(engine: Engine) -> Starlette:
    """Return the app, which opens the engine and its own connections to the same database."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        async with engine, asyncpg.create_pool(engine.dsn, min_size=1, max_size=5) as pool:
            await pool.execute(TABLES)
            app.state.engine, app.state.pool = engine, pool
            yield

    handled = (FlowstoneError, ValidationError, asyncpg.CheckViolationError, LookupError)
    return Starlette(
        lifespan=lifespan,
        routes=[
            Route("/orders", create_order, methods=["POST"]),
            Route("/runs/{run_id}", show_run),
            Route("/runs/{run_id}/events", show_events),
        ],
        exception_handlers=dict.fromkeys(handled, refuse),
    )


def main() -> None:
    """Serve the shop."""
    parser = argparse.ArgumentParser(description="A shop that never loses an order.")
    parser.add_argument("--store", default="embedded", help="embedded (a Postgres of its own), or postgresql://...")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--slots", type=int, default=10, help="orders at once; 0 leaves them to flowstone worker")
    parser.add_argument("--seconds", type=float, default=5, help="how long the warehouse takes to answer")
    given = parser.parse_args()
    here, store = f"http://127.0.0.1:{given.port}", "" if given.store == "embedded" else f" --store '{given.store}'"
    print(
        f"""The shop opens at {here}; values and records are in {given.store!r}, parcels in ./warehouse. Try:
    curl -X POST {here}/orders -d '{{"item": "book", "quantity": 2}}'
    curl {here}/runs/RUN                    # the run_id of the answer
    curl -N {here}/runs/RUN/events          # again, with -H 'Last-Event-ID: 2'
    curl -X POST {here}/orders -d '{{"item": "lamp", "quantity": 9}}'    # too many: neither order nor run
Kill it within {given.seconds:g} s of an order (kill -9) and start it again: the run goes on, and one parcel is sent.
With --slots 0 it only takes orders, and leaves the work to: flowstone worker {__file__}{store}""",
        flush=True,
    )
    resources = {Warehouse: Warehouse(Path("warehouse"), given.seconds)}
    engine = Engine(pipe, store=given.store, slots=given.slots, resources=resources)
    # A reader of events may stay for as long as a run takes: it does not keep the app from being stopped.
    uvicorn.run(make_app(engine), host="127.0.0.1", port=given.port, timeout_graceful_shutdown=5)


if __name__ == "__main__":
    main()
