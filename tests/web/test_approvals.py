"""Requests for approval over REST (WEB-02, APPR-07, APPR-11, APPR-12, APPR-17), on both stores."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from flowstone_async import ApprovalGate, Context, Engine, Extend, Keys, Pipeline, User
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.web import calling

APPROVALS = "/api/v1/approvals"


@dataclass
class Release:
    note: str
    percent: int = 100


async def by_header(request: Request) -> User | None:
    """Users as the tests name them: `ada=viewer,release`."""
    name, _, roles = request.headers.get("x-user", "").partition("=")
    return User(name, set(roles.split(",")) - {""}) if name else None


def person(name: str, *roles: str) -> dict[str, str]:
    """Return the headers of somebody who is logged in."""
    return {"X-User": f"{name}={','.join(roles)}"}


ADA = person("ada", "approver")


def releasing(**options: Any) -> tuple[Pipeline, Any]:
    """Return an asset for each region that asks before it is released."""
    pipe = Pipeline("release")

    @pipe.asset(partitions=Keys("eu", "us", "jp"))
    async def released(ctx: Context) -> str:
        show = {"region": ctx.partition, "password": "hunter2secret"}
        found = await ctx.approval(f"Release {ctx.partition}?", show=show, **options)
        form: Any = found.form
        return f"by {found.by}: {form.note if form else found.reason}"

    return pipe, released


async def asked(engine: Engine, asset: Any, *keys: str) -> list[str]:
    """Let regions be asked for; return the ids of their requests."""
    for key in keys:
        await engine.submit(asset, partition=key)
    return await soon(_pending(engine, len(keys)))


async def _pending(engine: Engine, count: int) -> list[str]:
    while len(found := await engine.approvals.pending()) < count:
        await asyncio.sleep(0)
    return [each.id for each in found]


def app(engine: Engine) -> Any:
    return calling(engine.asgi(auth=by_header), headers=ADA)


async def test_a_request_of_an_item_has_its_key(open_engine: OpenEngine):
    """APPR-16, APPR-17: null for a request of an asset."""
    pipe = Pipeline("scattered")

    @pipe.scatter(["a.mov"])
    async def released(name: str) -> str | ApprovalGate[str]:
        return ApprovalGate(f"Release {name}?", value=name)

    @pipe.asset
    async def alone() -> str | ApprovalGate[str]:
        return ApprovalGate("Release it?", value="it")

    engine = await open_engine(pipe, poll="50ms")
    run, other = await engine.submit(released), await engine.submit(alone)
    await soon(_pending(engine, 2))
    async with app(engine) as web:
        found = {each["asset"]: each for each in (await web.get(APPROVALS)).json()["approvals"]}
        assert {name: each["item"] for name, each in found.items()} == {"released": "a.mov", "alone": None}
        said = await web.post(f"{APPROVALS}/{found['released']['id']}/approve", json={})
        assert (said.status_code, said.json()["item"]) == (200, "a.mov")
    assert await (await soon(run.result())).to_list(limit=1) == ["a.mov"]
    await other.cancel()


async def test_a_request_is_listed_shown_and_decided(open_engine: OpenEngine):
    """WEB-02, APPR-17: `by` is who has logged in; the run goes on."""
    pipe, released = releasing(form=Release, timeout="2h")
    engine = await open_engine(pipe, poll="50ms")
    [request] = await asked(engine, released, "eu")
    async with app(engine) as web:
        page = (await web.get(APPROVALS)).json()
        assert page["next"] is None
        [found] = page["approvals"]
        assert found == (await web.get(f"{APPROVALS}/{request}")).json()
        assert (found["id"], found["text"], found["state"]) == (request, "Release eu?", "pending")
        assert (found["asset"], found["partition"], found["roles"]) == ("released", "eu", [])
        assert found["show"] == {"region": "eu", "password": "***"}
        assert found["form_schema"]["required"] == ["note"]
        assert found["due"] == found["expires_at"] != found["opened_at"]
        said = {"form": {"note": "ok", "percent": 5}, "reason": "why not"}
        answer = await web.post(f"{APPROVALS}/{request}/approve", json=said)
        assert answer.status_code == 200, answer.text
        decided = answer.json()
        assert (decided["state"], decided["by"], decided["reason"]) == ("approved", "ada", "why not")
        assert decided["form"] == {"note": "ok", "percent": 5}
        assert (await web.get(APPROVALS)).json() == {"approvals": [], "next": None}
        run = await engine.find(found["run_id"])
        assert await soon(run.result()) == "by ada: ok"
        [sent] = (await web.get(f"/api/v1/gates/{request}")).json()["deliveries"]
        assert (sent["state"], sent["way"], sent["actor"], sent["address"]) == ("accepted", "rest", "ada", "127.0.0.1")


async def test_the_first_decision_stands(open_engine: OpenEngine):
    """APPR-07: the same by the same person is a repetition, anything else 409 with the first one."""
    pipe, released = releasing()
    engine = await open_engine(pipe)
    [request] = await asked(engine, released, "eu")
    async with app(engine) as web:
        both = [web.post(f"{APPROVALS}/{request}/{way}", json={}) for way in ("reject", "approve")]
        answers = await asyncio.gather(*both)
        assert sorted(each.status_code for each in answers) == [200, 409]
        [first] = [each.json() for each in answers if each.status_code == 200]
        way = "approve" if first["state"] == "approved" else "reject"
        again = await web.post(f"{APPROVALS}/{request}/{way}", json={})
        assert (again.status_code, again.json()) == (200, first)
        other = await web.post(f"{APPROVALS}/{request}/{way}", json={}, headers=person("bob", "approver"))
        assert (other.status_code, other.json()["code"]) == (409, "ALREADY_DECIDED")
        decision = other.json()["details"]["decision"]
        assert (decision["by"], decision["approved"]) == ("ada", first["state"] == "approved")


@pytest.mark.parametrize(
    ("wanted", "roles", "status"),
    [
        ((), (), 403),
        ((), ("viewer",), 403),
        ((), ("operator",), 403),
        ((), ("approver",), 200),
        ((), ("admin",), 200),
        (("release",), (), 403),
        (("release",), ("approver",), 403),
        (("release",), ("admin",), 403),
        (("release",), ("Release", "releases"), 403),
        (("release",), ("release",), 200),
        (("release", "oncall"), ("viewer", "oncall"), 200),
    ],
)
async def test_only_those_decide_who_have_a_role(wanted: Any, roles: Any, status: int):
    """APPR-12, SEC-03: one of its roles where it names any, else whoever may decide at all. A refusal changes nothing."""
    pipe, released = releasing(roles=list(wanted))
    async with Engine(pipe, store="memory") as engine, app(engine) as web:
        [request] = await asked(engine, released, "eu")
        answer = await web.post(f"{APPROVALS}/{request}/approve", json={}, headers=person("eve", *roles))
        assert answer.status_code == status, answer.text
        assert status == 200 or answer.json()["code"] == "NOT_ALLOWED"
        assert (await engine.approvals.get(request)).state == ("approved" if status == 200 else "pending")
        nobody = await web.post(f"{APPROVALS}/{request}/approve", json={}, headers={"X-User": ""})
        assert nobody.status_code == 401


async def test_nobody_says_who_they_are(open_engine: OpenEngine):
    """APPR-12: `by` is never what the body says."""
    pipe, released = releasing()
    engine = await open_engine(pipe)
    [request] = await asked(engine, released, "eu")
    async with app(engine) as web:
        for name in ("by", "roles", "partition"):
            answer = await web.post(f"{APPROVALS}/{request}/approve", json={name: "mallory"})
            assert (answer.status_code, list(answer.json()["details"]["fields"])) == (422, [f"body.{name}"])
    assert (await engine.approvals.get(request)).state == "pending"


@pytest.mark.parametrize(
    ("form", "fields"),
    [
        (None, [""]),
        ({}, ["note"]),
        ({"note": "ok", "percent": "many"}, ["percent"]),
        ([], [""]),
        ("text", [""]),
    ],
)
async def test_a_form_that_does_not_fit_leaves_it_pending(open_engine: OpenEngine, form: Any, fields: list[str]):
    """APPR-11: 422 with its fields."""
    pipe, released = releasing(form=Release)
    engine = await open_engine(pipe)
    [request] = await asked(engine, released, "eu")
    async with app(engine) as web:
        answer = await web.post(f"{APPROVALS}/{request}/approve", json={"form": form})
        assert (answer.status_code, answer.json()["code"]) == (422, "PAYLOAD_INVALID")
        assert list(answer.json()["details"]["fields"]) == fields
        assert (await web.get(f"{APPROVALS}/{request}")).json()["state"] == "pending"


@pytest.mark.parametrize("reason", ["\0", "be\0fore"])
async def test_a_reason_that_cannot_be_stored_is_refused(open_engine: OpenEngine, reason: str):
    """APPR-12: 422, and it is as pending as before; text that is no Unicode is no JSON."""
    pipe, released = releasing(form=Release)
    engine = await open_engine(pipe)
    [request] = await asked(engine, released, "eu")
    async with app(engine) as web:
        for way in ("approve", "reject"):
            answer = await web.post(f"{APPROVALS}/{request}/{way}", json={"reason": reason})
            assert (answer.status_code, answer.json()["code"]) == (422, "CONFIG"), answer.text
            assert "NUL" in answer.json()["message"]
            text = b'{"reason": "\\ud800"}'
            headers = {"Content-Type": "application/json"}
            assert (await web.post(f"{APPROVALS}/{request}/{way}", content=text, headers=headers)).status_code < 500
        half = b'{"form": {"note": "\\udc00"}}'
        assert (await web.post(f"{APPROVALS}/{request}/approve", content=half, headers=headers)).status_code < 500
        assert (await web.get(f"{APPROVALS}/{request}")).json()["state"] == "pending"
        assert (await web.get(APPROVALS, params={"role": "\0"})).status_code == 422


ID = "01a1feb3-6d2a-75c6-8981-ce8ff992fd3b"


@pytest.mark.parametrize("request_id", [ID, "nope", "A" * 36, "%00", ID.upper()])
async def test_what_is_not_there_is_404(request_id: str):
    pipe, _ = releasing()
    async with Engine(pipe, store="memory") as engine, app(engine) as web:
        for method, path in (("GET", ""), ("POST", "/approve"), ("POST", "/reject")):
            answer = await web.request(method, f"{APPROVALS}/{request_id}{path}", json={} if path else None)
            assert (answer.status_code, answer.json()["code"]) == (404, "GATE_NOT_FOUND")
            if path:  # who may decide nothing is not told what there is
                viewer = await web.post(f"{APPROVALS}/{request_id}{path}", json={}, headers=person("v", "viewer"))
                assert viewer.status_code == 403
        assert (await web.get(APPROVALS, params={"asset": "nope"})).status_code == 404


async def test_what_is_over_is_410(open_engine: OpenEngine):
    """APPR-07, APPR-08: expired, or cancelled with its run."""
    pipe, released = releasing(timeout="1ms")
    engine = await open_engine(pipe, poll="50ms")
    run = await engine.submit(released, partition="eu")
    with pytest.raises(Exception, match="nobody decided"):
        await soon(run.result())
    slow, held = Pipeline("slow"), {}

    @slow.asset
    async def asked_once(ctx: Context) -> str:
        held["id"] = ctx.run_id
        return (await ctx.approval("May I?")).by or ""

    other = await open_engine(slow)
    [pending] = await asked_of(other, asked_once)
    await (await other.find(held["id"])).cancel()
    for its, request, state in (
        (engine, (await gates_of(engine, run.id))[0], "expired"),
        (other, pending, "cancelled"),
    ):
        async with app(its) as web:
            answer = await web.post(f"{APPROVALS}/{request}/approve", json={})
            assert (answer.status_code, answer.json()["code"]) == (410, "GATE_CLOSED")
            assert answer.json()["details"]["state"] == state
            assert (await web.get(f"{APPROVALS}/{request}")).json()["state"] == state


async def asked_of(engine: Engine, asset: Any) -> list[str]:
    await engine.submit(asset)
    return await soon(_pending(engine, 1))


async def gates_of(engine: Engine, run_id: str) -> list[str]:
    of_run = await engine._live().store.gates.of_run(run_id)
    return [each.gate.id for each in of_run if each.gate.kind == "approval"]


async def test_pages_by_asset_and_role(open_engine: OpenEngine):
    """WEB-05, APPR-17: a page goes on where the one before has ended, also if its last was decided meanwhile."""
    pipe, released = releasing(roles=["release"])

    @pipe.asset
    async def other(ctx: Context) -> str:
        return (await ctx.approval("Anybody?", timeout=False)).by or ""

    engine = await open_engine(pipe)
    regional = await asked(engine, released, "eu", "us", "jp")
    [*_, last] = [each for each in await soon(_more(engine, other)) if each not in regional]
    async with app(engine) as web:
        page = (await web.get(APPROVALS, params={"limit": 2})).json()
        seen = [each["id"] for each in page["approvals"]]
        decided = await web.post(f"{APPROVALS}/{seen[-1]}/reject", json={}, headers=person("r", "release"))
        assert decided.status_code == 200
        rest = (await web.get(APPROVALS, params={"limit": 2, "cursor": page["next"]})).json()
        assert rest["next"] is None
        assert [*seen, *(each["id"] for each in rest["approvals"])] == [*regional, last]
        for asset, ids in (("other", [last]), ("release.other", [last]), ("released", [*seen[:1], regional[2]])):
            assert await _listed(web, asset=asset) == ids
        assert await _listed(web, role="release") == [seen[0], regional[2], last]
        assert await _listed(web, role="oncall") == [last]
        wrong = await web.get(APPROVALS, params={"cursor": "nope"})
        assert (wrong.status_code, list(wrong.json()["details"]["fields"])) == (422, ["query.cursor"])
        assert (await web.get(APPROVALS, params={"limit": 501})).status_code == 422


async def _more(engine: Engine, asset: Any) -> list[str]:
    await engine.submit(asset)
    return await _pending(engine, 4)


async def _listed(web: httpx.AsyncClient, **query: str) -> list[str]:
    return [each["id"] for each in (await web.get(APPROVALS, params=query)).json()["approvals"]]


async def test_a_moving_deadline_is_shown_as_it_stands(open_engine: OpenEngine):
    """APPR-09."""
    pipe, released = releasing(timeout="1h", on_timeout=Extend("1h", times=2))
    engine = await open_engine(pipe)
    [request] = await asked(engine, released, "eu")
    async with app(engine) as web:
        found = (await web.get(f"{APPROVALS}/{request}")).json()
        assert found["due"] < found["expires_at"]


async def test_requests_of_other_pipelines_are_not_there(open_engine: OpenEngine):
    pipe, released = releasing()
    engine, stranger = await open_engine(pipe), await open_engine(Pipeline("elsewhere"))
    [request] = await asked(engine, released, "eu")
    async with app(stranger) as web:
        assert (await web.get(f"{APPROVALS}/{request}")).status_code == 404
        assert (await web.post(f"{APPROVALS}/{request}/approve", json={})).status_code == 404
