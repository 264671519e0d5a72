"""Tokens of the web side on Postgres: made and revoked once, whatever reply is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowstone_async.types import new_id
from tests.contract.builders import act
from tests.postgres.conftest import Opened
from tests.postgres.test_gates import far, lose, proxy  # noqa: F401 - fixtures
from tests.postgres.wire import LossyProxy


@pytest.mark.parametrize("reply", ["add_api_token", "add_api_token, COMMIT", "api_token, COMMIT"])
async def test_a_token_is_made_once(
    proxy: LossyProxy,  # noqa: F811
    far: Opened,  # noqa: F811
    lose: Callable[[str], None],  # noqa: F811
    reply: str,
) -> None:
    lose(reply)
    made = await far.store.api_tokens.add(new_id(), "ci", ("viewer",), b"d" * 32, 60.0, act("token.created", "ci"))
    assert proxy.lost == 1
    assert await far.store.api_tokens.page(ended=True, limit=10, after=None) == (made,)
    assert [entry.action for _, _, entry in await far.store.audit()].count("token.created") == 1


@pytest.mark.parametrize("reply", ["revoke_api_token", "api_token, COMMIT"])
async def test_a_token_is_revoked_once(
    proxy: LossyProxy,  # noqa: F811
    far: Opened,  # noqa: F811
    lose: Callable[[str], None],  # noqa: F811
    reply: str,
) -> None:
    made = await far.store.api_tokens.add(new_id(), "ci", ("viewer",), b"d" * 32, None, act("token.created", "ci"))
    lose(reply)
    revoked = await far.store.api_tokens.revoke(made.id, act("token.revoked", made.id))
    assert proxy.lost == 1
    assert revoked is not None
    assert revoked.revoked_at is not None
    assert await far.store.api_tokens.find(made.digest) is None
    assert [entry.action for _, _, entry in await far.store.audit()].count("token.revoked") == 1
