"""Tokens of the web side: what `Store.api_tokens` owes (SEC-03)."""

from __future__ import annotations

from hashlib import sha256

from flowstone_async.store.api_tokens import StoredToken
from flowstone_async.types import new_id
from tests.contract.builders import act
from tests.contract.clock import SetClock
from tests.contract.stores import Engine, Stores

HOUR = 3600


async def made(engine: Engine, name: str = "ci", *, lasts: float | None = None) -> StoredToken:
    return await engine.store.api_tokens.add(
        new_id(), name, ("operator", "release"), sha256(name.encode()).digest(), lasts, act("token.created", name)
    )


async def names(engine: Engine, *, ended: bool = False, limit: int = 100, after: str | None = None) -> list[str]:
    return [each.name for each in await engine.store.api_tokens.page(ended=ended, limit=limit, after=after)]


async def test_a_token_is_found_by_its_hash(stores: Stores, engine: Engine, clock: SetClock) -> None:
    """And by nothing else; another engine finds it too."""
    now = clock.now()
    token = await made(engine, lasts=60)
    assert (token.created_at, (token.expires_at or now).timestamp()) == (now, now.timestamp() + 60)
    other = await stores.engine()
    found = await other.store.api_tokens.find(token.digest)
    assert found is not None
    assert (found.id, found.name, found.roles) == (token.id, "ci", ("operator", "release"))
    assert await engine.store.api_tokens.find(sha256(b"other").digest()) is None
    assert await engine.store.api_tokens.find(token.id.encode()) is None


async def test_it_lets_nobody_in_from_the_instant_at_which_it_expires(engine: Engine, clock: SetClock) -> None:
    short, endless = await made(engine, "short", lasts=60), await made(engine, "endless")
    clock.advance(59.9)
    assert await engine.store.api_tokens.find(short.digest) is not None
    clock.advance(0.1)
    assert await engine.store.api_tokens.find(short.digest) is None
    clock.advance(10**9)
    assert await engine.store.api_tokens.find(endless.digest) is not None
    assert await names(engine) == ["endless"]
    assert sorted(await names(engine, ended=True)) == ["endless", "short"]


async def test_it_lets_nobody_in_once_it_is_revoked(stores: Stores, engine: Engine, clock: SetClock) -> None:
    """Whoever revoked it: the act is on record once, and the instant stays."""
    token, other = await made(engine), await stores.engine()
    first = await other.store.api_tokens.revoke(token.id, act("token.revoked", token.id))
    assert await engine.store.api_tokens.find(token.digest) is None
    revoked = clock.now()
    clock.advance(5)
    again = await engine.store.api_tokens.revoke(token.id, act("token.revoked", token.id))
    assert first is not None
    assert first == again
    assert first.revoked_at == revoked
    actions = [entry.action for _, _, entry in await engine.store.audit()]
    assert actions == ["token.revoked", "token.created"]
    assert await engine.store.api_tokens.revoke(new_id(), act("token.revoked", "none")) is None
    assert await engine.store.api_tokens.revoke("no id", act("token.revoked", "none")) is None
    assert len(await engine.store.audit()) == 2


async def test_making_it_again_changes_nothing(engine: Engine, clock: SetClock) -> None:
    """As after a lost reply."""
    token = await made(engine)
    clock.advance(5)
    given = (token.id, "other", ("viewer",), sha256(b"other").digest(), None, act("token.created", "other"))
    assert await engine.store.api_tokens.add(*given) == token
    assert await names(engine) == ["ci"]
    assert len(await engine.store.audit()) == 1


async def test_its_use_is_noted_once_an_hour(engine: Engine, clock: SetClock) -> None:
    token = await made(engine)
    begun = clock.now()
    assert token.used_at is None
    seen: list[float | None] = []
    for _ in range(5):
        await engine.store.api_tokens.find(token.digest)
        [listed] = await engine.store.api_tokens.page(ended=False, limit=1, after=None)
        seen.append(None if listed.used_at is None else (listed.used_at - begun).total_seconds())
        clock.advance(HOUR / 2)
    assert seen == [0, 0, HOUR, HOUR, 2 * HOUR]


async def test_pages_are_the_newest_first(engine: Engine, clock: SetClock) -> None:
    """A page goes on behind the last one, whatever was made or revoked meanwhile."""
    tokens = list[StoredToken]()
    for name in "abcde":
        clock.advance(1)
        tokens.append(await made(engine, name))
    assert await names(engine) == ["e", "d", "c", "b", "a"]
    first = await engine.store.api_tokens.page(ended=False, limit=2, after=None)
    await engine.store.api_tokens.revoke(first[-1].id, act("token.revoked", "d"))
    clock.advance(1)
    await made(engine, "f")
    assert await names(engine, limit=2, after=first[-1].id) == ["c", "b"]
    assert await names(engine, after=tokens[0].id) == []
    assert await names(engine, after=new_id()) == []
    assert await names(engine, after="no id") == []
    assert await names(engine) == ["f", "e", "c", "b", "a"]
