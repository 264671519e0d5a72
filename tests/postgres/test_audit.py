"""The audit log: the database itself refuses to change it (AUD-02)."""

from __future__ import annotations

import asyncpg
import pytest

from tests.contract.builders import act
from tests.postgres.conftest import Opened


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE flowstone.audit SET actor = 'nobody'",
        "DELETE FROM flowstone.audit",
        "TRUNCATE flowstone.audit",
        "INSERT INTO flowstone.audit (no, at, action, subject, actor, actor_kind) VALUES (1, now(), '', '', '', '')",
    ],
)
async def test_an_entry_stays_as_it_is(sql: asyncpg.Connection, opened: Opened, change: str) -> None:
    drive = await opened.start()
    await drive.advance("asset.finished", audit=(act(),))
    before = await opened.store.audit()

    with pytest.raises(asyncpg.PostgresError):
        await sql.execute(change)

    assert await opened.store.audit() == before


async def test_pruning_leaves_the_log_alone(sql: asyncpg.Connection, opened: Opened) -> None:
    drive = await opened.start()
    await drive.finish(audit=(act(),))
    await sql.execute("UPDATE flowstone.run SET created_at = '2000-01-01', finished_at = '2000-01-01'")

    await opened.store.prune(runs=1.0, values=1.0)

    assert await opened.store.run(drive.id) is None
    assert len(await opened.store.audit()) == 1
