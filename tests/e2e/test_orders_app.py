"""examples/orders_app.py in processes of its own: killed, started again, watched and left (JOB-05, JOB-09, EVT-05)."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.e2e.cli.process import Running
from tests.e2e.commands import flowstone
from tests.e2e.database import connected
from tests.e2e.invariants import assert_whole
from tests.support.modes import python_path

ROOT = Path(__file__).parents[2]
_PATIENCE = 60.0
_LONG = "100000"
TOLD = [
    "run.started",
    *("asset.started", "asset.succeeded", "asset.finished"),
    *("asset.started", "asset.succeeded", "asset.finished"),
    *("run.succeeded", "run.finished"),
]


class Requests:
    """The requests that the warehouse gets, as they come: it writes them to a pipe of the test's.

    Args:
        folder: Where the app runs.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "warehouse/requests"
        self._path.parent.mkdir()
        os.mkfifo(self._path)
        # For writing too: so that the app need not wait for us, and the pipe does not end with the app.
        self._pipe = os.open(self._path, os.O_RDWR)

    def key(self) -> str:
        """Wait for the next request, and return its idempotency key."""
        assert select.select([self._pipe], [], [], _PATIENCE)[0], f"no request came within {_PATIENCE:g} s"
        return os.read(self._pipe, 37).decode().strip()

    def parcels(self) -> list[str]:
        """Return the keys of the parcels that were sent."""
        return sorted(each.name for each in self._path.parent.iterdir() if each != self._path)

    def close(self) -> None:
        """Take no more of them."""
        assert not select.select([self._pipe], [], [], 0)[0], "a request came that nobody looked for"
        os.close(self._pipe)


class Shop:
    """The app, and somebody who uses it.

    Args:
        folder: Where it runs, on the store of the test.
        words: More arguments.
    """

    def __init__(self, folder: Path, *words: str) -> None:
        arguments = ["-m", "examples.orders_app", "--store", "embedded:store", "--port", "0", *words]
        environment = {**os.environ, "PYTHONPATH": python_path()}
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.running = Running(process)

    def order(self, item: str, quantity: int) -> httpx.Response:
        return self._client.post("/orders", json={"item": item, "quantity": quantity})

    def run(self, run_id: str) -> dict[str, Any]:
        """Return what the app tells of a run."""
        return self._client.get(f"/runs/{run_id}").raise_for_status().json()

    def events(self, run_id: str, *, after: int | None = None) -> Generator[tuple[int, str]]:
        """Read the events of a run, each by its id and type, until there are no more or the reader is closed."""
        headers = {} if after is None else {"last-event-id": str(after)}
        with self._client.stream("GET", f"/runs/{run_id}/events", headers=headers) as answer:
            answer.raise_for_status()
            assert answer.headers["content-type"].startswith("text/event-stream")
            number = 0
            for line in answer.iter_lines():
                if line.startswith("id: "):
                    number = int(line.removeprefix("id: "))
                elif line.startswith("event: "):
                    yield number, line.removeprefix("event: ")

    def kill(self) -> None:
        self.running.signal(signal.SIGKILL)
        assert self.running.end().code == -signal.SIGKILL

    def __enter__(self) -> Self:
        self.running.__enter__()
        address = re.search(r"http://127\.0\.0\.1:\d+", self.running.wait_for("Uvicorn running on"))
        assert address is not None
        self._client = httpx.Client(base_url=address[0], timeout=_PATIENCE)
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()
        if error[0] is None and self.running.returncode is None:
            self.running.signal(signal.SIGTERM)
            done = self.running.end()
            assert done.code in (0, -signal.SIGTERM), done
        self.running.__exit__(*error)


@pytest.fixture
def requests(folder: Path) -> Iterator[Requests]:
    """What the warehouse is asked."""
    with closing(Requests(folder)) as requests:
        yield requests


def ordered(answer: httpx.Response) -> tuple[int, str]:
    """Return the number of an order that was taken, and the id of its run."""
    assert answer.status_code == httpx.codes.ACCEPTED, answer.text
    return answer.json()["order"], answer.json()["run"]["run_id"]


async def test_an_order_whose_app_is_killed_is_sent_once(folder: Path, store: str, requests: Requests) -> None:
    with Shop(folder, "--seconds", _LONG) as shop:
        number, run_id = ordered(shop.order("book", 2))
        reader = shop.events(run_id)
        seen = [next(reader), next(reader)]
        key = requests.key()
        assert (shop.run(run_id)["state"], requests.parcels()) == ("running", [key])
        shop.kill()
        with pytest.raises(httpx.TransportError):
            next(reader)
    with Shop(folder, "--seconds", "0") as shop:
        assert requests.key() == key
        seen += shop.events(run_id, after=2)
        assert seen == list(enumerate(TOLD, 1))  # going on is no second start (STEP-04)
        assert list(shop.events(run_id)) == seen
        assert list(shop.events(run_id, after=len(seen))) == []
        expected = {"run": run_id, "state": "succeeded", "receipt": {"order": number, "parcel": f"parcel-{key[:8]}"}}
        assert shop.run(run_id) == expected
        assert requests.parcels() == [key]
        async with connected(folder) as connection:
            await assert_whole(connection)
            assert [str(row[0]) for row in await connection.fetch("SELECT run FROM orders")] == [run_id]
            assert await connection.fetchval("SELECT count(*) FROM flowstone.run") == 1


async def test_neither_order_nor_run_is_left_of_a_transaction_that_is_rolled_back(
    folder: Path, store: str, requests: Requests
) -> None:
    with Shop(folder, "--seconds", "0") as shop:
        refused = [shop.order("lamp", 4), shop.order("unicorn", 1), shop.order("lamp", 0)]
        assert [each.status_code for each in refused] == [409, 422, 422]
        _, run_id = ordered(shop.order("lamp", 3))
        *_, last = shop.events(run_id)
        assert last == (len(TOLD), "run.finished")
        assert requests.parcels() == [requests.key()]
        async with connected(folder) as connection:
            orders = await connection.fetch("SELECT item, quantity, run FROM orders")
            assert [(each["item"], each["quantity"], str(each["run"])) for each in orders] == [("lamp", 3, run_id)]
            assert [str(row[0]) for row in await connection.fetch("SELECT id FROM flowstone.run")] == [run_id]
            assert await connection.fetchval("SELECT left_over FROM stock WHERE item = 'lamp'") == 0


def test_a_reader_that_leaves_ends_no_run(folder: Path, store: str, requests: Requests) -> None:
    with Shop(folder, "--seconds", "1") as shop:
        _, run_id = ordered(shop.order("book", 1))
        reader = shop.events(run_id)
        assert [next(reader), next(reader)] == list(enumerate(TOLD[:2], 1))
        key = requests.key()
        reader.close()
        assert list(shop.events(run_id, after=2)) == list(enumerate(TOLD, 1))[2:]
        assert (shop.run(run_id)["state"], requests.parcels()) == ("succeeded", [key])


def test_an_app_without_slots_leaves_its_orders_to_a_worker(folder: Path, store: str, requests: Requests) -> None:
    with Shop(folder, "--slots", "0") as shop:
        number, run_id = ordered(shop.order("book", 1))
        assert shop.run(run_id)["state"] == "queued"
        with flowstone(folder, "worker", str(ROOT / "examples/orders_app.py"), "--store", store) as worker:
            assert list(shop.events(run_id)) == list(enumerate(TOLD, 1))
            assert shop.run(run_id)["receipt"] == {"order": number, "parcel": f"parcel-{requests.key()[:8]}"}
            worker.process.terminate()
            assert worker.end().code == 0


def test_what_it_is_asked_wrongly_is_refused(folder: Path, store: str) -> None:
    with Shop(folder) as shop:
        missing = shop._client.get("/runs/00000000-0000-7000-8000-000000000000/events")
        assert (missing.status_code, missing.json()["code"]) == (404, "RUN_NOT_FOUND")
        _, run_id = ordered(shop.order("book", 1))
        for last in ("two", "-1", "9" * 30):
            odd = shop._client.get(f"/runs/{run_id}/events", headers={"last-event-id": last})
            assert odd.status_code == httpx.codes.BAD_REQUEST, last
