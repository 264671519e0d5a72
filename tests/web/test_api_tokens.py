"""Tokens of the store: made, shown once, kept as hashes, revoked at once (SEC-03)."""

from __future__ import annotations

import logging
from typing import Any

import asyncpg
import httpx
import pytest

from flowstone_async import ApiTokenNotFound, ConfigError, Engine, NewApiToken
from flowstone_async._engine.api_tokens import digest
from flowstone_async.api_tokens import ROLES
from flowstone_async.web.user import _GRANTED
from tests.support.engines import OpenEngine, PostgresEngines, SharedEngines
from tests.support.web import BEARER, TOKEN, calling
from tests.web.shop import Shop


def bearing(made: NewApiToken) -> dict[str, str]:
    return {"Authorization": f"Bearer {made.token}"}


async def status(web: httpx.AsyncClient, path: str, made: NewApiToken, method: str = "GET") -> int:
    return (await web.request(method, path, headers=bearing(made))).status_code


def test_roles_are_those_of_the_web_side():
    assert set(ROLES) == set(_GRANTED)


async def test_without_auth_only_tokens_of_the_store_are_accepted(
    open_engine: OpenEngine, caplog: pytest.LogCaptureFixture
):
    """SEC-03: which the log says once, when the app begins to work; and no token is in it."""
    engine = await open_engine(Shop().pipe)
    app = engine.asgi()
    made = await engine.tokens.create("ci", role="viewer")
    with caplog.at_level(logging.INFO, logger="flowstone"):
        async with calling(app) as web:
            assert (await web.get("/api/v1/runs")).status_code == 401
            assert (await web.get("/api/v1/runs", headers=BEARER)).status_code == 401
            assert await status(web, "/api/v1/runs", made) == 200
            refused = await web.get("/api/v1/runs", headers={"Authorization": f"Basic {made.token}"})
            assert refused.status_code == 401
    assert caplog.text.count("engine.tokens") == 1
    assert made.token not in caplog.text


async def test_until_the_engine_is_open_nobody_knows_whom_a_token_lets_in():
    engine = Engine(Shop().pipe, store="memory")
    app = engine.asgi()
    async with engine:
        made = await engine.tokens.create("ci", role="viewer")
        async with calling(app) as web:
            assert await status(web, "/health/ready", made) == 200
    async with calling(app) as web:
        answer = await web.get("/health/ready", headers=bearing(made))
        assert (answer.status_code, answer.json()["code"]) == (503, "ENGINE_NOT_OPEN")
        assert (await web.get("/health/ready")).status_code == 401
    with pytest.raises(ConfigError, match="not open"):
        await engine.tokens.create("ci", role="viewer")


async def test_they_are_accepted_beside_the_token_of_the_app(open_engine: OpenEngine):
    engine = await open_engine(Shop().pipe)
    made = await engine.tokens.create("ci", role="viewer")
    async with calling(engine.asgi(auth=TOKEN)) as web:
        assert (await web.get("/api/v1/runs", headers=BEARER)).status_code == 200
        assert await status(web, "/api/v1/runs", made) == 200
    async with calling(engine.asgi(auth=_nobody)) as web:  # a host says itself who comes in
        assert await status(web, "/api/v1/runs", made) == 401


async def _nobody(_: Any) -> None:
    return None


@pytest.mark.parametrize(
    ("role", "read", "operate"),
    [("viewer", 200, 403), ("approver", 200, 403), ("operator", 200, 404), ("admin", 200, 404),
     (["viewer", "release"], 200, 403), ({"operator", "approver"}, 200, 404)],
)  # fmt: skip
async def test_roles_say_what_it_may(role: Any, read: int, operate: int):
    async with Engine(Shop().pipe, store="memory") as engine, calling(engine.asgi()) as web:
        made = await engine.tokens.create("ci", role=role)
        assert made.roles == tuple(sorted([role] if isinstance(role, str) else role))
        assert await status(web, "/api/v1/runs", made) == read
        assert await status(web, "/api/v1/runs/x/cancel", made, "POST") == operate


async def test_revoked_it_lets_nobody_in_from_the_next_request_on(open_engine: OpenEngine):
    """SEC-03: also where another process has revoked it."""
    first, second = await open_engine(Shop().pipe), await open_engine(Shop().pipe)
    made = await first.tokens.create("ci", role="viewer")
    async with calling(first.asgi()) as one, calling(second.asgi()) as other:
        assert [await status(web, "/api/v1/runs", made) for web in (one, other)] == [200, 200]
        revoked = await second.tokens.revoke(made.id)
        assert [await status(web, "/api/v1/runs", made) for web in (one, other)] == [401, 401]
    assert revoked.revoked_at is not None
    assert await first.tokens.list() == ()
    assert await first.tokens.list(ended=True) == await second.tokens.list(ended=True)
    assert (await first.tokens.revoke(made.id)).revoked_at == revoked.revoked_at


async def test_it_is_shown_once_and_its_hash_is_kept(engines: SharedEngines, open_engine: OpenEngine):
    """SEC-02: neither a table nor what the library shows has it; what is kept cannot be used."""
    engine = await open_engine(Shop().pipe)
    made = await engine.tokens.create("ci", role="viewer", expires=False)
    [listed] = await engine.tokens.list()
    assert made.token not in f"{made!r} {listed!r} {engine.redactor.text(f'it is {made.token}')}"
    assert not hasattr(listed, "token")
    assert listed.expires_at is None
    kept = str(await engine._live().store.audit())
    if isinstance(engines, PostgresEngines):
        kept += await _all_of(engines.dsn, "api_token") + await _all_of(engines.dsn, "audit")
        assert digest(made.token).hex() in kept
    assert made.token not in kept
    async with calling(engine.asgi()) as web:
        for other in (digest(made.token).hex(), made.id, made.token[:-1], made.token.lower(), f"{made.token}="):
            answer = await web.get("/api/v1/runs", headers={"Authorization": f"Bearer {other}"})
            assert answer.status_code == 401


async def _all_of(dsn: str, table: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return str(await connection.fetch(f"SELECT to_jsonb(t)::text FROM flowstone.{table} AS t"))
    finally:
        await connection.close()


async def test_what_cannot_be_a_token_is_not_looked_for(monkeypatch: pytest.MonkeyPatch):
    """Whoever tries words costs the store nothing."""
    async with Engine(Shop().pipe, store="memory") as engine, calling(engine.asgi()) as web:
        asked = list[bytes]()
        store: Any = engine._live().store.api_tokens
        find = store.find

        async def look(given: bytes) -> Any:
            asked.append(given)
            return await find(given)

        monkeypatch.setattr(store, "find", look)
        for word in ("", "password", "fstk_", "fstk_" + "x" * 42, "fstk_" + "x" * 44, "fstk_" + "é" * 43):
            headers = [(b"Authorization", f"Bearer {word}".encode("latin-1"))]
            assert (await web.get("/api/v1/runs", headers=headers)).status_code == 401
        assert not asked
        assert (await web.get("/api/v1/runs", headers={"Authorization": "Bearer fstk_" + "x" * 43})).status_code == 401
        assert len(asked) == 1


async def test_whoever_makes_and_whoever_uses_one_stands_in_the_audit_log():
    """AUD-01: tokens made and revoked, and what somebody does with one under its name."""
    async with Engine(Shop().pipe, store="memory") as engine:
        made = await engine.tokens.create("grafana", role="operator")
        async with calling(engine.asgi(), headers=bearing(made)) as web:
            run = (await web.post("/api/v1/runs", json={"targets": ["base"]})).json()
        await (await engine.find(run["id"])).result()
        await engine.tokens.revoke(made.id)
        acts = {entry.action: entry for _, _, entry in await engine._live().store.audit()}
    created, revoked, submitted = acts["token.created"], acts["token.revoked"], acts["run.submitted"]
    assert (created.subject, created.details) == (made.id, {"name": "grafana", "roles": ["operator"]})
    assert (revoked.subject, revoked.actor_kind) == (made.id, "process")
    assert (submitted.actor, submitted.actor_kind) == ("grafana", "token")


@pytest.mark.parametrize("name", ["", " ", "x" * 201, "a\0b", "a\nb", "\ud800", None, 7])
async def test_names_that_are_none_are_refused(name: Any):
    async with Engine(Shop().pipe, store="memory") as engine:
        with pytest.raises(ConfigError, match="name="):
            await engine.tokens.create(name, role="viewer")
        assert await engine.tokens.list() == ()


@pytest.mark.parametrize(
    "role",
    [
        "",
        "viewr",
        [],
        ["release"],
        ["viewer", ""],
        ["viewer", 7],
        None,
        7,
        "viewer\0",
        ["viewer", "x" * 201],
        [*ROLES, *map(str, range(50))],
    ],
)
async def test_roles_that_are_none_are_refused(role: Any):
    async with Engine(Shop().pipe, store="memory") as engine:
        with pytest.raises(ConfigError, match="role="):
            await engine.tokens.create("ci", role=role)


@pytest.mark.parametrize("expires", [0, -1, "soon", True, None, "2900001d"])
async def test_lengths_that_are_none_are_refused(expires: Any):
    async with Engine(Shop().pipe, store="memory") as engine:
        with pytest.raises(ConfigError, match="expires="):
            await engine.tokens.create("ci", role="viewer", expires=expires)


async def test_what_is_not_there_cannot_be_revoked():
    async with Engine(Shop().pipe, store="memory") as engine:
        made = await engine.tokens.create("ci", role="viewer")
        for unknown in ("nope", made.token, "", None):
            with pytest.raises(ApiTokenNotFound) as caught:
                await engine.tokens.revoke(unknown)  # type: ignore[arg-type]
            assert made.token not in str(caught.value)  # no other process knows it, to hide it
        with pytest.raises(ConfigError, match="limit="):
            await engine.tokens.list(limit=10_001)
        with pytest.raises(ConfigError, match="ended="):
            await engine.tokens.list(ended="yes")  # type: ignore[arg-type]
