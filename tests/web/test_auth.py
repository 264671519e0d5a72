"""Who may come in, and what for (SEC-03, WEB-01)."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from flowstone_async import ConfigError, Engine, User
from flowstone_async._engine.api_tokens import digest
from flowstone_async.types import new_id
from flowstone_async.web.app import operations
from tests.support.web import BEARER, TOKEN, calling, client
from tests.web.shop import Shop

OPEN = {"/health/live", "/hooks/signal/{token}", "/hooks/approval/{token}"}
PATHS = [(each.method, each.path, each.permission) for each in operations("test")]


@pytest.mark.parametrize(("method", "path", "permission"), PATHS)
async def test_nothing_is_open_but_webhooks_and_live(method: str, path: str, permission: str | None):
    """SEC-03: whatever is added to the app needs a user, also while the engine is not open."""
    assert (permission is None) == (path in OPEN)
    async with calling(Engine(Shop().pipe, store="memory").asgi(auth=TOKEN)) as web:
        response = await web.request(method, path)
        if path not in OPEN:
            assert (response.status_code, response.json()["code"]) == (401, "NOT_AUTHENTICATED")
            assert response.headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "header",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer \xff\xfe",
        "Bearer " + "x" * 10_000,
    ],
)
async def test_a_token_that_is_not_the_one_is_nobody(header: str):
    async with calling(Engine(Shop().pipe, store="memory").asgi(auth=TOKEN)) as web:
        response = await web.get("/health/ready", headers=[(b"Authorization", header.encode("latin-1"))])
        assert response.status_code == 401
        two = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other-than-this-one")]
        assert (await web.get("/health/ready", headers=two)).status_code == 401
        for right in (f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN}"):
            assert (await web.get("/health/ready", headers={"Authorization": right})).status_code == 503
        in_query = await web.get("/health/ready", params={"token": TOKEN})
        assert in_query.status_code == 401


async def test_only_the_hash_of_a_token_is_kept():
    """SEC-02: nothing that the app holds has the token that it was given."""
    given = f"only-for-this-test-{new_id()}"
    app: Any = Engine(Shop().pipe, store="memory").asgi(auth=given)
    assert given not in _everything(app)
    assert digest(given).hex() in _everything(app)


def _everything(value: Any, seen: set[int] | None = None) -> str:
    """Return all text and bytes that can be reached from an object of the web side."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return ""
    seen.add(id(value))
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | set):
        return " ".join(_everything(each, seen) for each in value)
    if isinstance(value, dict):
        return _everything([*value, *value.values()], seen)
    closed = [each.cell_contents for each in getattr(value, "__closure__", None) or ()]
    return _everything([*vars(value).values(), *closed], seen) if hasattr(value, "__dict__") else ""


@pytest.mark.parametrize("auth", ["", "short", "with a space in it and more", "ä" * 20, "\x00" * 20, 7, True, object()])
def test_what_cannot_be_auth_is_refused(auth: Any):
    with pytest.raises(ConfigError, match="auth="):
        Engine(Shop().pipe, store="memory").asgi(auth=auth)


@pytest.mark.parametrize("title", ["", "x" * 201, 7])
def test_what_cannot_be_a_title_is_refused(title: Any):
    with pytest.raises(ConfigError, match="title="):
        Engine(Shop().pipe, store="memory").asgi(title=title)


async def test_false_lets_everybody_in_and_says_so(caplog: pytest.LogCaptureFixture):
    """WEB-01: only for hosts that authenticate themselves."""
    async with Engine(Shop().pipe, store="memory") as engine, calling(engine.asgi(auth=False)) as web:
        assert (await web.get("/api/v1/runs")).status_code == 200
    assert "lets everybody in" in caplog.text


def _by_header(request: Request) -> User | None:
    name = request.headers.get("x-user")
    return None if name is None else User(name, roles={name})


async def _host(request: Request) -> User | None:
    return _by_header(request)


@pytest.mark.parametrize(
    ("user", "read", "operate"),
    [(None, 401, 401), ("stranger", 403, 403), ("viewer", 200, 403), ("approver", 200, 403), ("operator", 200, 404),
     ("admin", 200, 404)],
)  # fmt: skip
async def test_a_host_says_who_asks_and_roles_what_they_may(user: str | None, read: int, operate: int):
    """SEC-03: `viewer` reads, `operator` also runs and cancels, `approver` decides, `admin` does everything."""
    headers = {} if user is None else {"X-User": user}
    async with Engine(Shop().pipe, store="memory") as engine, calling(engine.asgi(auth=_host), headers=headers) as web:
        assert (await web.get("/api/v1/runs")).status_code == read
        refused = await web.post("/api/v1/runs", json={"targets": ["nope"]})
        assert refused.status_code == operate
        if refused.status_code == 403:
            assert refused.json()["code"] == "NOT_ALLOWED"
        assert (await web.post("/api/v1/runs/x/cancel")).status_code == operate


async def test_whoever_asks_stands_in_the_audit_log():
    async with Engine(Shop().pipe, store="memory") as engine:
        async with calling(engine.asgi(auth=_host), headers={"X-User": "operator"}) as web:
            run = (await web.post("/api/v1/runs", json={"targets": ["base"]})).json()
        await (await engine.find(run["id"])).result()
        entries = {entry.action: entry for _, _, entry in await engine._live().store.audit()}
    assert (entries["run.submitted"].actor, entries["run.submitted"].actor_kind) == ("operator", "person")
    assert entries["asset.succeeded"].actor == "engine"


async def test_a_host_may_refuse_in_its_own_way():
    async def teapot(_: Request) -> User | None:
        raise HTTPException(401, "log in first", headers={"WWW-Authenticate": "Cookie"})

    async with Engine(Shop().pipe, store="memory") as engine, calling(engine.asgi(auth=teapot)) as web:
        response = await web.get("/api/v1/runs")
        assert (response.status_code, response.json()["message"]) == (401, "log in first")
        assert response.headers["www-authenticate"] == "Cookie"


@pytest.mark.parametrize("mistake", ["raises", "returns", "is_true"])
async def test_a_mistake_of_the_host_lets_nobody_in(mistake: str, caplog: pytest.LogCaptureFixture):
    """A callable that fails, or returns something else, is no permission; what it raised stays in the log."""

    async def wrong(_: Request) -> Any:
        if mistake == "raises":
            raise RuntimeError("password=hunter2secret")
        return {"name": "ada"} if mistake == "returns" else True

    async with Engine(Shop().pipe, store="memory") as engine, calling(engine.asgi(auth=wrong)) as web:
        response = await web.get("/api/v1/runs")
        assert (response.status_code, response.json()["code"]) == (500, "INTERNAL")
        assert "hunter2" not in response.text
        assert "runs" not in response.json()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"}, 404),
        ({"Sec-Fetch-Site": "none"}, 404),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[broken"}, 403),
        ({"Origin": "http://test"}, 404),
        ({"Origin": "https://test"}, 404),
        ({}, 404),
    ],
)
async def test_a_page_of_another_site_lets_a_browser_change_nothing(headers: dict[str, str], status: int):
    """WEB-09: a host's cookies come with whatever another site asks for; a token does not."""
    async with Engine(Shop().pipe, store="memory") as engine:
        async with calling(engine.asgi(auth=_host), headers={"X-User": "admin", **headers}) as web:
            assert (await web.post("/api/v1/runs/x/cancel")).status_code == status
            assert (await web.get("/api/v1/runs")).status_code == 200
        async with client(engine) as web:
            assert (await web.post("/api/v1/runs/x/cancel", headers={**BEARER, **headers})).status_code == 404


@pytest.mark.parametrize(
    ("name", "roles"), [("", {"viewer"}), (" ", ()), (None, ()), ("a\0", ()), ("a", "admin"), ("a", [1])]
)
def test_what_cannot_be_a_user_is_refused(name: Any, roles: Any):
    with pytest.raises(ConfigError, match="of a user"):
        User(name, roles)
    assert User("ada", ["viewer"]) == User("ada", {"viewer"})
