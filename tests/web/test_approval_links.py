"""Links to requests for approval, as messages carry them (WEB-09, SEC-02), on both stores."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from flowstone_async import ApprovalRequested, Context, Engine, Pipeline, Rejected
from flowstone_async._engine.tokens import link_token, token_of
from flowstone_async.web.addresses import Addresses
from tests.contract.clock import SetClock
from tests.engine.test_signals import OTHER, SECRET
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.web import calling
from tests.web.test_approvals import Release, by_header, person

PAGE = {"Accept": "text/html,application/xhtml+xml"}
BASE = {"base_url": "http://test", "poll": "50ms"}


class Told:
    """An asset that asks, and the messages about it."""

    def __init__(self, text: str = "Large trade?", *, pipeline: str = "trades", **options: Any) -> None:
        pipe = self.pipe = Pipeline(pipeline)
        self.messages: asyncio.Queue[ApprovalRequested] = asyncio.Queue()

        async def tell(requested: ApprovalRequested) -> None:
            self.messages.put_nowait(requested)

        @pipe.asset
        async def trade(ctx: Context) -> str:
            found = await ctx.approval(text, notify=[tell], show={"size": 5, "by": "<b>me</b>"}, **options)
            form: Any = found.form
            return f"by {found.by}: {form.note if form else found.reason}"

        self.asset = trade

    async def asked(self, engine: Engine) -> tuple[Any, ApprovalRequested]:
        """Submit a run; return it, and the message about its request."""
        run = await engine.submit(self.asset)
        return run, await soon(self.messages.get())


def app(engine: Engine, **options: Any) -> Any:
    return calling(engine.asgi(auth=by_header), **options)


def _path(requested: ApprovalRequested) -> str:
    assert requested.url is not None
    return requested.url.removeprefix("http://test")


def _fields(page: httpx.Response) -> dict[str, str]:
    [csrf] = re.findall(r'name="csrf" value="([^"]+)"', page.text)
    return {"csrf": csrf}


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
@pytest.mark.parametrize("headers", [{}, PAGE], ids=["json", "page"])
async def test_nothing_but_a_post_decides(method: str, headers: Any):
    """WEB-09: a scanner that opens every link in a mail decides nothing, however often."""
    told = Told()
    async with Engine(told.pipe, store="memory", **BASE) as engine, app(engine) as web:
        _, requested = await told.asked(engine)
        for query in ("", "?decision=approve", "?approve=1"):
            answer = await web.request(method, f"{_path(requested)}{query}", headers=headers)
            assert answer.status_code == (405 if method not in ("GET", "HEAD") else 422 if query else 200)
        assert (await engine.approvals.get(requested.id)).state == "pending"


async def test_a_link_decides_once(open_engine: OpenEngine):
    """WEB-09: who has it decides a request without roles; then it is over."""
    told = Told(form=Release)
    engine = await open_engine(told.pipe, **BASE)
    run, requested = await told.asked(engine)
    path = _path(requested)
    async with app(engine) as web:
        found = (await web.get(path)).json()
        assert (found["id"], found["text"], found["state"]) == (requested.id, "Large trade?", "pending")
        unfit = await web.post(path, json={"decision": "approve", "form": {"percent": 5}})
        assert (unfit.status_code, list(unfit.json()["details"]["fields"])) == (422, ["note"])
        answer = await web.post(path, json={"decision": "approve", "form": {"note": "ok"}})
        assert (answer.status_code, answer.json()["by"], answer.json()["state"]) == (200, "link", "approved")
        assert await soon(run.result()) == "by link: ok"
        for decision in ("approve", "reject"):
            again = await web.post(path, json={"decision": decision, "form": {"note": "ok"}})
            assert (again.status_code, again.json()["code"]) == (409, "ALREADY_DECIDED")
            assert again.json()["details"]["decision"]["by"] == "link"
        gone = await web.get(path)
        assert (gone.status_code, gone.json()["code"]) == (410, "GATE_CLOSED")
        assert "Large trade" not in gone.text


async def test_of_two_at_once_one_decides(open_engine: OpenEngine):
    told = Told()
    engine = await open_engine(told.pipe, **BASE)
    _, requested = await told.asked(engine)
    async with app(engine) as web:
        both = (web.post(_path(requested), json={"decision": each}) for each in ("approve", "reject"))
        assert sorted(each.status_code for each in await asyncio.gather(*both)) == [200, 409]


@pytest.mark.not_in("evict", reason="its engines share a memory whose clock stands still")
async def test_a_link_expires_with_its_request(open_engine: OpenEngine):
    """WEB-09: 410 from the deadline on, or once its run is cancelled."""
    late, clock = Told(pipeline="late", timeout="1h"), SetClock()
    engine = await open_engine(late.pipe, clock=clock, **BASE)
    run, requested = await late.asked(engine)
    clock.advance(3600)
    with pytest.raises(Rejected):
        await soon(run.result())
    async with app(engine) as web:
        await _is_over(web, requested, "expired")
    other = Told()
    engine = await open_engine(other.pipe, **BASE)
    run, requested = await other.asked(engine)
    await run.cancel()
    async with app(engine) as web:
        await _is_over(web, requested, "cancelled")


async def _is_over(web: httpx.AsyncClient, requested: ApprovalRequested, state: str) -> None:
    for answer in (
        await web.get(_path(requested)),
        await web.post(_path(requested), json={"decision": "approve"}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (410, "GATE_CLOSED")
        assert answer.json()["details"]["state"] == state


async def test_roles_count_for_links_too(open_engine: OpenEngine):
    """APPR-12: the link shows a request that has roles, and lets nobody decide it who has none of them."""
    told = Told(roles=["release"])
    engine = await open_engine(told.pipe, **BASE)
    _, requested = await told.asked(engine)
    path, order = _path(requested), {"decision": "approve"}
    async with app(engine) as web:
        assert (await web.get(path)).json()["roles"] == ["release"]
        for headers in ({}, person("eve", "approver"), person("root", "admin")):
            refused = await web.post(path, json=order, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "NOT_ALLOWED")
        assert (await engine.approvals.get(requested.id)).state == "pending"
        answer = await web.post(path, json=order, headers=person("ada", "release"))
        assert (answer.status_code, answer.json()["by"]) == (200, "ada")


async def test_the_page_needs_nothing_but_itself(open_engine: OpenEngine):
    """WEB-08, WEB-09: HTML that is escaped, without script, and sends what it was given along."""
    told = Told("Buy <script>?", form=Release, roles=["release"])
    engine = await open_engine(told.pipe, **BASE)
    run, requested = await told.asked(engine)
    path, ada = _path(requested), {**PAGE, **person("ada <b>", "release")}
    async with app(engine, headers=ada) as web:
        page = await web.get(path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "same-origin"  # else a browser hides where the form comes from
        for there in ("Buy &lt;script&gt;?", "&lt;b&gt;me&lt;/b&gt;", "ada &lt;b&gt;", "trades.trade", "release"):
            assert there in page.text
        for absent in ("<script", "<b>", path.rpartition("/")[2], "http"):
            assert absent not in page.text
        fields = _fields(page)
        for wrong in ({}, {"csrf": ""}, {"csrf": "ä"}, {"csrf": fields["csrf"][:-1]}):
            refused = await web.post(path, data={"decision": "approve", "form": '{"note": "ok"}', **wrong})
            assert refused.status_code == 403, wrong
        other = {**PAGE, **person("bob", "release")}
        stolen = await web.post(path, data={"decision": "approve", **fields}, headers=other)
        assert stolen.status_code == 403
        unfit = await web.post(path, data={"decision": "approve", "form": "{}", **fields})
        assert (unfit.status_code, unfit.headers["content-type"]) == (422, "text/html; charset=utf-8")
        assert (await web.post(path, data={"decision": "perhaps", **fields})).status_code == 422
        assert (await engine.approvals.get(requested.id)).state == "pending"
        form = '{"note":\r\n "ok"}'
        answer = await web.post(path, data={"decision": "approve", "form": form, "reason": " ", **fields})
        assert answer.status_code == 200, answer.text
        assert "approved by ada &lt;b&gt;" in answer.text
        assert await soon(run.result()) == "by ada <b>: ok"
        over = await web.get(path)
        assert (over.status_code, over.headers["content-type"]) == (410, "text/html; charset=utf-8")


@pytest.mark.parametrize("fetched", ["cross-site", "same-site"])
async def test_a_page_of_another_site_decides_nothing(fetched: str):
    """WEB-09: not with what a browser adds by itself, whoever knows the link."""
    told = Told()
    async with Engine(told.pipe, store="memory", **BASE) as engine, app(engine) as web:
        _, requested = await told.asked(engine)
        fields = _fields(await web.get(_path(requested), headers=PAGE))
        for headers in ({"Sec-Fetch-Site": fetched}, {"Origin": "https://evil.example"}):
            answer = await web.post(_path(requested), data={"decision": "approve", **fields}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "CROSS_SITE")
        text = await web.post(
            _path(requested), content=b'{"decision": "approve"}', headers={"Content-Type": "text/plain"}
        )
        assert text.status_code == 400
        good = {"Sec-Fetch-Site": "same-origin", "Origin": "http://test"}
        answer = await web.post(_path(requested), data={"decision": "reject", **fields}, headers=good)
        assert (answer.status_code, answer.json()["state"]) == (200, "rejected")


async def test_a_form_that_was_proposed_is_taken_as_it_is(open_engine: OpenEngine):
    """APPR-11: what the page shows and nobody edits is no edit, also where a secret was hidden in it."""
    told, seen = Told(), list[Any]()
    pipe = Pipeline("drafts")

    def initial() -> Release:
        return Release("token=abcdefgh", 7)

    async def tell(requested: ApprovalRequested) -> None:
        told.messages.put_nowait(requested)

    @pipe.approval(form=Release, initial=initial, notify=[tell])
    async def draft() -> str:
        return "So?"

    @draft.on_approve
    async def approved(decision: Any) -> str:
        seen.append(decision)
        return decision.form.note

    engine = await open_engine(pipe, **BASE)
    run = await engine.submit(draft)
    path = _path(await soon(told.messages.get()))
    async with app(engine, headers=PAGE) as web:
        page = await web.get(path)
        [text] = re.findall(r"<textarea[^>]*>(.*)</textarea>", page.text, re.DOTALL)
        assert "abcdefgh" not in text
        form = text.replace("&quot;", '"').strip().replace("\n", "\r\n")
        answer = await web.post(path, data={"decision": "approve", "form": form, **_fields(page)})
        assert answer.status_code == 200, answer.text
    await soon(run.result())
    assert (seen[0].form, seen[0].modified) == (Release("token=abcdefgh", 7), False)


async def test_links_that_nobody_made_are_all_alike(open_engine: OpenEngine):
    """SEC-02: neither the id of a request nor the token of a gate is a link."""
    told = Told()
    engine = await open_engine(told.pipe, **BASE)
    _, requested = await told.asked(engine)
    token = _path(requested).rpartition("/")[2]
    wrong = [
        requested.id, token_of(SECRET, requested.id), link_token(OTHER, requested.id), token[:-1], f"{token}A",
        token.upper(), "nope", "%00", "x" * 5000, link_token(SECRET, "0" * 32),
    ]  # fmt: skip
    async with app(engine) as web:
        for each in wrong:
            for method in ("GET", "POST"):
                answer = await web.request(method, f"/hooks/approval/{each}", json={"decision": "approve"})
                assert (answer.status_code, answer.json()["message"]) == (404, "this link leads nowhere"), each
        assert (await web.post(f"/hooks/signal/{token}", json={})).status_code == 404
    assert (await engine.approvals.get(requested.id)).state == "pending"


async def test_the_store_has_no_link(open_engine: OpenEngine):
    """SEC-02: neither in a table, where headers of a browser name the page, nor in an event or a message's repr."""
    told = Told()
    engine = await open_engine(told.pipe, **BASE)
    run, requested = await told.asked(engine)
    token = _path(requested).rpartition("/")[2]
    headers = {"Referer": f"http://test{_path(requested)}", "X-Odd": token}
    async with app(engine) as web:
        assert (await web.post(_path(requested), json={"decision": "approve"}, headers=headers)).status_code == 200
    await soon(run.result())
    gates = engine._live().store.gates
    [sent] = await gates.deliveries(requested.id)
    assert '"x-odd"' in sent.facts
    assert "http://test/hooks/approval/***" in sent.facts
    kept = [sent.facts, repr(await gates.read([requested.id])), repr(requested)]
    kept += [repr(each) async for each in run.events()]
    assert token not in " ".join(kept)


async def test_a_link_outlives_its_secret(open_engine: OpenEngine):
    """SEC-01: the first secret signs, all verify, in whichever process."""
    told = Told()
    engine = await open_engine(told.pipe, secret=OTHER, **BASE)
    _, requested = await told.asked(engine)
    for secret, status in ((SECRET, 404), ([SECRET, OTHER], 200)):
        rotated = await open_engine(told.pipe, **{**BASE, "slots": 0, "secret": secret})
        async with app(rotated) as web:
            answer = await web.post(_path(requested), json={"decision": "approve"})
            assert answer.status_code == status


async def test_without_an_address_there_is_no_link():
    """SIG-14: as for gates; the request is decided as before."""
    told = Told()
    async with Engine(told.pipe, store="memory") as engine:
        _, requested = await told.asked(engine)
        assert requested.url is None


async def test_a_host_that_asks_for_a_login_does_not_close_the_link(open_engine: OpenEngine):
    async def login(_: Request) -> Any:
        raise HTTPException(401, "log in first")

    told = Told()
    engine = await open_engine(told.pipe, **BASE)
    _, requested = await told.asked(engine)
    async with calling(engine.asgi(auth=login)) as web:
        assert (await web.post(_path(requested), json={"decision": "approve"})).json()["by"] == "link"


async def test_an_address_may_not_try_for_ever():
    """As with webhooks: what needs no login is bounded."""
    async with Engine(Told().pipe, store="memory") as engine:
        site: Any = engine.asgi(auth=by_header)
        site.state.addresses = Addresses(2, clock=lambda: 0.0)
        async with calling(site) as web:
            tries = [await web.get("/hooks/approval/nope") for _ in range(3)]
        assert [each.status_code for each in tries] == [404, 404, 429]
        assert tries[2].headers["retry-after"] == "1"
