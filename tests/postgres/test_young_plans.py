"""Plans that are made while a store is young, and kept: they read no whole index, whatever it grows to."""

from __future__ import annotations

import asyncpg

from flowstone_async.store.postgres.connections import plans
from tests.postgres.test_plans import ASKED, TEXTS, is_large, plan

FIRST_COLUMNS = """
SELECT c.relname::text, a.attname::text
FROM pg_index AS i
JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
"""


async def test_a_young_store_s_plans_read_no_whole_index_either(sql: asyncpg.Connection) -> None:
    """A plan is kept as long as its connection: the planner believes that a partial index on nothing yet is small."""
    whole = {
        "audit",
        "finished_runs",
        "missing_days",
        "unwoken",
        "last_ended",
        "next_due",
    }  # read from one end, as far as is wanted
    whole |= {"hand_back_all", "leave_lines", "count_lost"}  # once a worker leaves, or has died
    await sql.execute(plans("SESSION"))
    first = dict(await sql.fetch(FIRST_COLUMNS))
    for name in ASKED.keys() - whole:
        for node in await plan(sql, TEXTS[name], ASKED[name]):
            if "Index Name" in node and is_large(node):
                # Without a condition on its first column an index is read as a whole, whatever else it is asked for.
                assert first[node["Index Name"]] in node.get("Index Cond", ""), (name, node)
