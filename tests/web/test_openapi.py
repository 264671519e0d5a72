"""The OpenAPI document says what is routed (WEB-02), and schemathesis finds nothing that it does not say."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from flowstone_async import Engine
from flowstone_async.web.app import operations
from flowstone_async.web.openapi import refusals
from tests.support.engines import OpenEngine
from tests.support.web import BEARER, TOKEN, client, ended, served, submitted
from tests.web.shop import Shop


async def _document() -> tuple[dict[str, Any], Any]:
    engine = Engine(Shop().pipe, store="memory")
    app: Any = engine.asgi(auth=TOKEN, title="the shop")
    async with client(engine, title="the shop") as web:
        return (await web.get("/api/v1/openapi.json")).json(), app


async def test_it_describes_exactly_what_is_routed():
    """WEB-02: nothing is served that is not described, and the reverse, method by method."""
    document, app = await _document()
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    routed = {
        (method, route.path) for route in app._router.routes for method in route.app._operations if method != "HEAD"
    }
    assert described == routed
    assert len(described) == len(operations(""))
    assert document["info"]["title"] == "the shop"


async def test_every_operation_has_a_name_of_its_own_and_all_that_it_refers_to():
    document, _ = await _document()
    each = [operation for methods in document["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in each]
    assert len(set(names)) == len(names)
    assert all(operation["summary"].endswith(".") for operation in each)
    schemas = document["components"]["schemas"]
    assert set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(document))) <= set(schemas)
    assert "traceback" not in json.dumps(document).lower()


@pytest.mark.parametrize("each", operations(""), ids=lambda each: each.name)
def test_every_operation_declares_what_it_takes(each: Any):
    """What routes and checks is what is described: the parameters of the path are those of the handler's."""
    if each.method == "POST":
        assert each.permission != "read"
        assert each.raw_body or each.body is not None or each.path.endswith(("/cancel", "/retry"))
    else:
        assert each.body is None
    assert each.name == each.name.strip()
    assert set(each.answers) <= {200, 202, 204, 503}
    assert set(refusals(each)) <= {400, 401, 403, 404, 409, 410, 413, 422, 429, 500, 503}


async def _schemathesis(url: str, *words: str, folder: Path, parameters: dict[str, str]) -> None:
    config = "".join(f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in parameters.items())
    (folder / "schemathesis.toml").write_text(f"[parameters]\n{config}", encoding="utf-8")
    # That a cursor or a partition has a form is more than a schema can say: what does not fit is refused all the same.
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(folder / "schemathesis.toml")),
        *("run", f"{url}/api/v1/openapi.json", "--header", f"Authorization: {BEARER['Authorization']}"),
        *("--no-color", "--seed", "1", "--generation-database", "none", "--exclude-checks", "positive_data_acceptance"),
        *words,
    ]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()[-20_000:]


async def _known(web: httpx.AsyncClient) -> dict[str, str]:
    """Let there be something of everything; return what it is called."""
    run = await ended(web, "doubled")
    await ended(web, "text")
    await submitted(web, "asked")
    while not (waiting := (await web.get("/api/v1/approvals")).json()["approvals"]):
        await asyncio.sleep(0)
    request = waiting[0]["id"]
    return {
        "path.run_id": run["id"], "path.asset": "text", "query.asset": "doubled",
        "path.approval_id": request, "path.gate_id": request,
    }  # fmt: skip


async def test_a_fuzzer_finds_nothing(tmp_path: Path):
    """WEB-02: no answer that is not described, no 5xx, nothing malformed taken, nobody let in."""
    async with Engine(Shop().pipe, store="memory") as engine, served(engine.asgi(auth=TOKEN)) as url:
        async with client(engine) as web:
            known = await _known(web)
        await _schemathesis(url, "--phases", "fuzzing", "--max-examples", "5", folder=tmp_path, parameters=known)


@pytest.mark.faults
@pytest.mark.parametrize("known", [False, True])
async def test_a_fuzzer_that_takes_its_time_finds_nothing(open_engine: OpenEngine, tmp_path: Path, known: bool):
    """The same with every phase: with ids that are there, and with those that it makes up."""
    engine = await open_engine(Shop().pipe)
    async with client(engine) as web:
        given = await _known(web)
    async with served(engine.asgi(auth=TOKEN)) as url:
        given = given if known else {}
        await _schemathesis(url, "--max-examples", "12", folder=tmp_path, parameters=given)
