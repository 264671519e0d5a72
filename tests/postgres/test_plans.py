"""The plans of what is asked often: by index, however large the history, and whatever the planner believes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio

from flowstone_async.store.postgres.connections import plans
from flowstone_async.store.postgres.migrate import _START, migrations
from flowstone_async.store.postgres.queries import QUERIES
from flowstone_async.store.postgres.remains import REMAINS, TRIMS
from flowstone_async.store.postgres.remains import statement as statement_of_remains
from flowstone_async.store.postgres.statement import KINDS, statement
from tests.support.postgres import TestServer

ROWS = 100_000  # far more than a plan that reads them all could hide
GATES = 100_000
SCATTERS, PAGES = 100, 100  # of each one
LARGE = {"run", "run_key", "asset_key", "materialization", "event", "lineage", "superseded", "audit"}
LARGE |= {f"scatter{part}" for part in ("", "_page", "_key", "_chunk", "_block", "_result", "_failure", "_note")}
LARGE |= {"gate", "gate_outcome", "gate_token", "early_signal", "scatter_wait"}
LARGE |= {"step", "limit_key", "limit_holder", "limit_waiting"}

# A history of finished runs of two pipelines, three events each, one value each, computed from one another.
HISTORY = f"""
INSERT INTO flowstone.run (id, fence, created_at, finished_at, continuable, state, worker, pipeline, partition, targets,
    options, params)
SELECT md5('r' || n)::uuid, 1, now() - n * interval '1 second', now() - n * interval '1 second', true,
    CASE n % 1000 WHEN 0 THEN 'failed' ELSE 'succeeded' END, 'gone', 'p' || n % 2, '', '["a"]', '{{}}', '{{}}'
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.asset_key (current, run_id, state, pipeline, asset, io, partition)
SELECT md5('m' || n)::uuid, md5('r' || n)::uuid, 'completed', 'p' || n % 2, 'a', '', 'i:' || n
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.materialization (id, run_id, size, seconds, started_at, committed_at, attempts, pipeline, asset,
    io, partition, fingerprint, code_hash, inputs, manager, location, host)
SELECT md5('m' || n)::uuid, md5('r' || n)::uuid, 1, 1, now(), now(), 1, 'p' || n % 2, 'a', '', 'i:' || n, '', '', '[]',
    '', '', ''
FROM generate_series(1, {ROWS}) AS n;
SELECT flowstone.add_event_partition((now() AT TIME ZONE 'UTC')::date - n) FROM generate_series(1, 4) AS n;
INSERT INTO flowstone.event (born, run_id, first_no, cursor, at, count, pipeline, body)
SELECT (r.created_at AT TIME ZONE 'UTC')::date, r.id, 1, n << 20, now(), 3, 'p' || n % 2, '[]'
FROM generate_series(1, {ROWS}) AS n
JOIN flowstone.run AS r ON r.id = md5('r' || n)::uuid;
INSERT INTO flowstone.step (run_id, body, id, at, born, place, seen, attempt, kind, key, path, function, arguments, value)
SELECT r.id, md5('b' || n)::uuid, md5('f#' || n)::uuid, now(), (r.created_at AT TIME ZONE 'UTC')::date, 0, 0, 1, 'step',
    'f#' || n, '', 'f', '', ''
FROM generate_series(1, {ROWS}) AS n
JOIN flowstone.run AS r ON r.id = md5('r' || n)::uuid;
INSERT INTO flowstone.lineage (pipeline, asset, io, partition, materialization, upstream)
SELECT 'p' || n % 2, 'a', '', 'i:' || n, md5('m' || n + 1)::uuid, md5('m' || n)::uuid
FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.superseded (at, materialization)
SELECT now(), md5('m' || n)::uuid FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.run (id, fence, created_at, continuable, state, pipeline, partition, targets, options, params, priority,
    due_at, no, submitted, request)
SELECT md5('q' || n)::uuid, 1, now(), true, 'queued', 'p' || n % 2, '', '["a"]', '{{}}', '{{}}', n % 4,
    now() + (n - 1000) * interval '1 minute', n, true, 'r' || n
FROM generate_series(1, {ROWS // 3}) AS n;
INSERT INTO flowstone.worker (id, host, pid, pipelines, started_at, lease_until)
VALUES ('w', '', 1, ARRAY['p0'], now(), now() + interval '1 day');
INSERT INTO flowstone.run_key (pipeline, key, run_id, subject)
SELECT 'p0', 'k' || n, md5('r' || n)::uuid, 's' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.limit_key (key) SELECT 'k' || n FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.limit_holder (key, holder, worker, since, run_id, asset)
SELECT 'k' || n, md5('h' || n)::uuid, 'w' || n % 1000, now(), '', '' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.limit_waiting (key, worker, asked_at, oldest, waiting, shown)
SELECT 'k' || n, 'w' || n % 1000, now(), now(), 1, '[]' FROM generate_series(1, {ROWS}) AS n;
INSERT INTO flowstone.audit (at, action, subject, actor, actor_kind)
SELECT now(), 'x', 'y', 'engine', 'engine' FROM generate_series(1, {ROWS}) AS n;
"""
# Scatters of a hundred pages with ten items each, one of which waits on its own; the first scatter is under way.
HISTORY += f"""
INSERT INTO flowstone.scatter (id, run_id, fence, read, total, created_at, pages, sealed, state, pipeline, asset, io,
    partition, facts)
SELECT md5('s' || n)::uuid, md5('r' || n)::uuid, 1, 10 * {PAGES}, 10 * {PAGES}, now(), {PAGES}, n > 1,
    CASE n WHEN 1 THEN 'running' ELSE 'closed' END, 'p0', 'a', '', 'i:' || n, '{{}}'
FROM generate_series(1, {SCATTERS}) AS n;
INSERT INTO flowstone.scatter_page (scatter, no, count, first, before, fence, duplicates, items)
SELECT s.id, n, 10, 10 * n, 10 * n, 1, '{{}}', '' FROM flowstone.scatter AS s CROSS JOIN generate_series(0, {PAGES - 1}) AS n;
INSERT INTO flowstone.scatter_key (scatter, hash, item_no)
SELECT s.id, md5('k' || n)::uuid, n FROM flowstone.scatter AS s CROSS JOIN generate_series(0, 10 * {PAGES} - 1) AS n;
INSERT INTO flowstone.scatter_chunk (scatter, first, page, count, alone, state, worker, due_at)
SELECT s.id, 10 * n, n, 10, alone,
    CASE WHEN s.state = 'closed' THEN 'done' WHEN alone THEN 'ready' ELSE 'running' END,
    CASE WHEN s.state = 'running' AND NOT alone THEN 'w' END,
    CASE WHEN alone THEN now() + (n + 1) * interval '1 day' END
FROM flowstone.scatter AS s
CROSS JOIN generate_series(0, {PAGES - 1}) AS n
CROSS JOIN unnest(ARRAY[false, true]) AS alone;
INSERT INTO flowstone.scatter_chunk (scatter, first, page, count, alone, state)
SELECT md5('s1')::uuid, n, 0, 1, true, 'done' FROM generate_series(10 * {PAGES}, 200 * {PAGES}) AS n;
INSERT INTO flowstone.scatter_note (scatter, noted) SELECT scatter, '{{}}' FROM flowstone.scatter_page;
INSERT INTO flowstone.scatter_block (scatter, first, page, places, body)
SELECT scatter, first, no, '', '' FROM flowstone.scatter_page;
INSERT INTO flowstone.scatter_result (scatter, item_no, value) SELECT scatter, item_no, '1' FROM flowstone.scatter_key;
INSERT INTO flowstone.scatter_failure (scatter, item_no, at, attempts, code, worker, error)
SELECT scatter, first, now(), 1, 'E' || no % 3, 'w', '{{}}' FROM flowstone.scatter_page;
"""
# Gates: 100,000 that are open, of which 100 are due and a tenth never will be; as many that have ended, 10 of them just now.
HISTORY += f"""
INSERT INTO flowstone.gate (id, run_id, opened_at, due, open, kind, pipeline, asset, io, partition, name, body, key, facts,
    token)
SELECT md5('g' || n)::uuid, md5('q' || n / 2)::uuid, now(),
    CASE WHEN n % 10 > 0 THEN now() + (n - 100) * interval '1 minute' END, n <= {GATES},
    CASE n % 3 WHEN 0 THEN 'signal' WHEN 1 THEN 'approval' ELSE 'sleep' END, 'p0', 'a', '', '', '', '', '', '{{}}',
    sha256(n::text::bytea)
FROM generate_series(1, 2 * {GATES}) AS n;
INSERT INTO flowstone.gate_outcome (gate, run_id, at, woken, how)
SELECT g.id, g.run_id, now(), g.no % 10000 > 0, 'expired' FROM flowstone.gate AS g WHERE NOT g.open;
INSERT INTO flowstone.gate_token (token, gate) SELECT g.token, g.id FROM flowstone.gate AS g;
INSERT INTO flowstone.scatter_wait (gate, scatter, first) SELECT g.id, md5('s2')::uuid, g.no FROM flowstone.gate AS g WHERE g.open;
INSERT INTO flowstone.early_signal (address, at, until, payload)
SELECT sha256(('e' || n)::bytea), now(), now() + interval '1 day', '' FROM generate_series(1, {GATES}) AS n;
INSERT INTO flowstone.delivery (at, born, gate, state, facts)
SELECT now(), (now() AT TIME ZONE 'UTC')::date, g.id, 'accepted', '{{}}' FROM flowstone.gate AS g;
"""


# One database for each state of the statistics; they go with the server.
_made: dict[tuple[int, str], str] = {}


@pytest_asyncio.fixture(params=["never analysed", "analysed"])
async def history(server: TestServer, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the store's kind to a database with a long history."""
    known = (id(server), request.param)
    if known not in _made:
        await server.create_template("history", fill)
        _made[known] = await server.clone("history")
    connection = await asyncpg.connect(_made[known])
    if request.param == "analysed":
        await connection.execute("ANALYZE")
    await connection.execute(plans("SESSION"))
    yield connection
    connection.terminate()


async def fill(connection: asyncpg.Connection) -> None:
    await connection.execute(_START)
    for one in migrations():
        await connection.execute(one.text)
    await connection.execute(HISTORY)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes(part)


async def cheapest(connection: asyncpg.Connection, text: str) -> dict[str, Any]:
    """Return the top of the plan of a statement when it touches the fewest blocks; nothing of it stays.

    The first time the catalogues are read too, and again after the server has analysed a table by itself.
    """
    found: list[dict[str, Any]] = []
    for _ in range(4):
        await connection.execute("BEGIN")
        explained = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}")
        await connection.execute("ROLLBACK")
        found.append(json.loads(explained)[0]["Plan"])
    return min(found, key=lambda top: top["Shared Hit Blocks"] + top["Shared Read Blocks"])


async def plan(connection: asyncpg.Connection, text: str, arguments: list[str]) -> list[dict[str, Any]]:
    """Return the nodes of the plan that is made once and kept."""
    prepared = await connection.prepare(text)
    types = ", ".join(parameter.name for parameter in prepared.get_parameters())
    await connection.execute(f"PREPARE kept ({types}) AS {text}" if types else f"PREPARE kept AS {text}")
    given = f"({', '.join(arguments)})" if arguments else ""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE kept {given}")
    await connection.execute("DEALLOCATE kept")
    return list(nodes(json.loads(explained)[0]["Plan"]))


def assert_by_index(found: list[dict[str, Any]]) -> None:
    for node in found:
        large = is_large(node)
        assert not (large and node["Node Type"] == "Seq Scan"), node
        if node["Node Type"] in {"Hash Join", "Merge Join"}:
            assert not any(map(is_large, nodes(node))), node


def is_large(node: dict[str, Any]) -> bool:
    """Tell whether a node reads a large table, or a partition of one."""
    name = node.get("Relation Name", "")
    return name in LARGE or name.startswith(("event_", "step_"))


U = f"'{UUID(int=1)}'"
NAMES = ["ARRAY['p0']", "ARRAY['a']", "ARRAY['i:1']", "ARRAY['']"]
EVER = "'2999-01-01'"
ASKED: dict[str, list[str]] = {
    "run": [U],
    "runs_known": [f"ARRAY[{U}]::uuid[]"],
    "runs": ["ARRAY['p0']", "NULL", "NULL", EVER, U, "50"],
    "runs_of_target": ["ARRAY['p0']", "NULL", "'\"a\"'", EVER, U, "50"],
    "runs_active": ["ARRAY['p0']", "'running'", "NULL", EVER, U, "50"],
    "runs_unhappy": ["ARRAY['p0']", "'failed'", "NULL", EVER, U, "50"],
    "driven": [U],
    "queue": ["ARRAY['p0', 'p1']", "NULL"],
    "figures_of_gates": ["ARRAY['p0']", "NULL"],
    "figures_of_items": ["ARRAY['p0', 'p1']"],
    "committed_before": [U, "1", "1"],
    "end_run": [U, "NULL", "'cancelled'", "NULL", "NULL"],
    "end_claims": [U, "'cancelled'", "now()", "NULL"],
    "last_event": [U],
    "hand_back": [U, "1"],
    "hand_back_all": ["'w'"],
    "watch": [U],
    "states": NAMES,
    "materializations": [f"ARRAY[{U}]::uuid[]"],
    "keys": ["'p0'", "'a'", "''", "''", "NULL", "100"],
    "durations": ["'p0'", "ARRAY['a']"],
    "upstream": [U],
    "dependants": NAMES,
    "lock_keys": NAMES,
    "clear_current": [*NAMES, f"ARRAY[{U}]::uuid[]", "NULL"],
    "events": [U, "0", "1000"],
    "append_events": [U, "'{7}'", "'{1}'", "'{[]}'", "'p0'", "now()"],
    "commit_instants": [f"ARRAY[{U}]", "ARRAY['1']"],
    "all_events": ["ARRAY['p0', 'p1']", "0", "1000", "9223372036854775807"],
    "audit": ["100", "NULL"],
    "orphans_seen": ["'w'", "ARRAY['p0']", "NULL"],
    "remains_listed": [],
    "orphans": ["ARRAY['p0']", "10"],
    "orphan": ["ARRAY['p0']", U],
    "claim": ["'w'", "ARRAY['p0', 'p1']", "NULL", "10", "NULL", "NULL"],
    "owned": ["'w'", "ARRAY['p0', 'p1']"],
    "moved_on": [f"ARRAY[{U}]::uuid[]", "ARRAY[1]"],
    "joined": [U],
    "join_run": [U],
    "take": [f"ARRAY[{U}]::uuid[]", "'w'"],
    "count_lost": [f"ARRAY[{U}]::uuid[]"],
    "payload": [U],
    "recorded": [f"ARRAY[{U}]::uuid[]"],
    "delete_payloads": [f"ARRAY[{U}]::uuid[]"],
    "append_chunk": [U, "0", "''", "NULL"],
    "chunks": [U, "0", "10"],
    "finished_runs": ["1", "100", "NULL", "true", "NULL"],
    "forget_events": ["'2025-01-01'", f"ARRAY[{U}]::uuid[]", "100"],
    "forget_runs": [f"ARRAY[{U}]::uuid[]"],
    "superseded": ["1", "100", "NULL"],
    "missing_days": ["NULL", "3"],
    "current_ones": [f"ARRAY[{U}]::uuid[]"],
    "forget_materializations": [f"ARRAY[{U}]::uuid[]"],
    "forget_lineage": [*NAMES, f"ARRAY[{U}]::uuid[]"],
    "uploads": ["1", "100", "NULL"],
    "leave_slots": ["'w1'"],
    "leave_lines": ["'w1'", "ARRAY['k1']"],
    "limit_states": ["ARRAY['k1']", "NULL", "'w1'"],
    "limit_page": ["''", "100"],
    "idle_limits": ["''", "1000", "NULL"],
    "forget_limits": ["ARRAY['k1']"],
    "reset_limit": ["'k1'"],
}
ASKED |= {
    "record_steps": [
        *(
            f"ARRAY[{U}]::uuid[]",
            "'{1}'",
            "'{1}'",
            f"ARRAY[{U}]::uuid[]",
            f"ARRAY[{U}]::uuid[]",
            "'{0}'",
            "'{0}'",
            "'{1}'",
        ),
        *("'{step}'", "'{f#0}'", "'{}'", "'{f}'", "'{a}'", "'{NULL}'", "'{NULL}'", "NULL"),
    ],
    "steps_of_body": [U, U, U, "1000", "1000"],
    "drop_steps": [U, U, f"ARRAY[{U}]::uuid[]"],
    "hold_run": [U, "1"],
    "step_of_attempt": [U, U, U, "1"],
    "forget_steps": ["'2025-01-01'", f"ARRAY[{U}]::uuid[]", "100", "1000"],
}
US = f"ARRAY[{U}]::uuid[]"
HASH = "md5('k1')::uuid"
ASKED |= {
    "scatter_run": [U, "1"],
    "begin_scatter": [U, U, "1", "'p0'", "'a'", "''", "''", "'{}'", "NULL"],
    "decide_scatter": [U, "1", "'{}'", "'{}'"],
    "note_scatter": [U, "'{}'"],
    "scatter_notes": [US],
    "known_keys": [U, f"ARRAY[{HASH}, {U}]"],
    "lock_scatters": [US],
    "split_chunks": [U, "'{5000}'", "'{1}'", "'{1}'", "'{NULL}'", "'{NULL}'", "'{false}'"],
    "release_chunks": [U, "'w'"],
    "scatter": [U],
    "scatters_of_run": [U],
    "add_page": [
        *(U, "1", "1", "2", f"ARRAY[{HASH}, {U}]", "''", "NULL", "'{}'", "false", "'w'", "'{0}'", "'{2}'", "'{1}'"),
        *("'{0}'", "'{E}'", "'{{}}'", "NULL", "1", "'{0, 1}'", "NULL", "NULL"),
    ],
    "page_added": [U, "1", "1"],
    "flush": [
        *(
            "'w'",
            US,
            "'{0}'",
            "'{false}'",
            "'{1}'",
            "'{0}'",
            "'{done}'",
            r"'{\\x00}'",
            "'{1}'",
            "'{1}'",
            "'{0}'",
            "'{NULL}'",
        ),
        *("'{NULL}'", r"'{\\x00}'", r"'{\\x00}'"),
        *("'{1}'", "'{1}'", "'{1}'", "'{0}'", "'{NULL}'", "'{NULL}'"),
        *("'{1}'", "'{5000}'", "'{1}'", "'{1}'", "'{5001}'", "'{1}'", "'{E}'", "'{E}'", "NULL"),
    ],
    "hold_gates": [US],
    "wait_items": [U, "'{0}'", US, "'{true}'", "NULL"],
    "scatter_left": [U, "'w'"],
    "flushed": [US, "'{0}'", "'{false}'", "'{1}'", "'{0}'", "'{ready}'", "'{1}'"],
    "take_chunks": ["'w'", U, "100", "NULL", "'{0}'", "'{false}'", "100"],
    "attended": [U, "'w'"],
    "crew": [U, "'w'"],
    "attend": [U, "'w'", "5", "true"],
    "leave": [U, "'w'"],
    "give_chunks": ["'w'", U, "'{0}'", "'{1}'", "'{1}'", "'{t}'"],
    "given_chunks": [U, "'{0}'", "'{1}'", "'{1}'", "'{t}'"],
    "joinable": ["'w'", "'{p0}'", "16"],
    "close_scatter": [U, "1"],
    "end_scatter": [U, "1", "'failed'"],
    "end_scatters": [U],
    "cancel_chunks": [US],
    "scatter_dues": [U, "NULL", "100"],
    "scatter_counts": [U],
    "scatter_pages": [U, "'{1, 2}'"],
    "scatter_blocks": [US, "1", "1000"],
    "scatter_results": [US, "1", U, "1000"],
    "committed_blocks": [US, "0", "50", "1000", U],
    "committed_results": [US, "0", "50", U, "1000", U],
    "scatter_page_at": [U, "1"],
    "scatter_failures": [U, "0", "100", U],
    "scatter_splits": [U, "-1", "100"],
    "scatter_errors": [U, "10"],
    "scatter_find": [U, HASH],
    "valueless_scatters": [US],
    "lock_siblings": [US],
    "lock_scatter": [U],
    "redriven_by": [U],
    "redrive_failures": [U, U, "'failed'"],
    "redrive_chunks": [U, U, "'failed'"],
    "redrive_scatter": [U, U, U, "'failed'", "'{}'", "0", "NULL"],
    "scatter_chain": [U],
    "lock_chains": [US],
    "chains": [US],
    "delete_scatters": [US, US, US, "NULL"],
    "trim_chain": [U, "5", "50", "NULL"],
    "trimmed": [U],
}

ASKED |= {
    "add_api_token": [U, "'n'", "'{viewer}'", r"'\x01'", "60", "NULL"],
    "api_token": [U],
    "use_api_token": [r"'\x01'", "NULL"],
    "revoke_api_token": [U, "NULL"],
    "api_tokens": [U, "100", "false", "NULL"],
}

ADDRESSES = r"ARRAY['\\x01', decode(md5('g1'), 'hex')]::bytea[]"
ASKED |= {
    "gate_run": [U, "1"],
    "open_gates": [
        *(U, US, "'{NULL}'", "'{1}'", "'{signal}'", "'{p0}'", "'{a}'", "'{\"\"}'", "'{\"\"}'", "'{n}'", "'{b}'"),
        *("'{k}'", "'{f}'", "'{NULL}'", "NULL"),
    ],
    "hold_tokens": [ADDRESSES, f"ARRAY[{U}, {U}]::uuid[]"],
    "early_gates": [ADDRESSES],
    "early_ones": [ADDRESSES, "NULL"],
    "early_page": [r"'\x'", "100"],
    "addressed": [ADDRESSES],
    "settle_early": [US, r"'{\\x00}'", "'{now}'", "'{a}'", r"'{\\x00}'"],
    "gates": [US, "NULL", r"'\x01'"],
    "gate_outcomes": [US],
    "gates_of_run": [U],
    "open_gates_of_run": [U, "100"],
    "waiting_bodies": [U, "'p0'", "'a'", "''", "''"],
    "open_kinds": [U, "'escalation'"],
    "gate_place": [U],
    "gates_waiting": ["'{signal,approval}'", "'{p0}'", "NULL", "100", "NULL", U, "NULL", "true", "NULL", "NULL"],
    "last_ended": ["'p0'", "'a'", "''", "''", "NULL"],
    "next_due": [],
    "expire_gates": ["100", "NULL"],
    "unwoken": ["100"],
    "wake": [US, "NULL", "true"],
    "wakes": [US],
    "suspended_run": ["'p0'", "'r'"],
    "suspend": [U, "1", "0", "NULL"],
    "suspended": [U, "1"],
    "free_claims": [U],
    "rearm_gate": [U, U, "now()"],
    "withdraw_gates": [U, US, "NULL"],
    "refuse_signal": [U, U, r"'\x01'", "NULL"],
    "lock_gate": [U, U],
    "end_gates": [U, "now()"],
    "deliveries": [U, "NULL", "100"],
    "forget_gates": [US, "100", "1000"],
    "gated": [US],
    "forget_early": ["NULL", "100"],
}


GIVEN = {"first": U, "scatters": US, "most": "100", "rows": "20000", "large": "100", "now": "NULL"}
TEXTS = dict(QUERIES)
for listing in (REMAINS, TRIMS):
    for which in ("all", "own"):
        sweeping = statement_of_remains(listing, which)
        TEXTS[f"{which} of {listing.table}"] = sweeping.text
        ASKED[f"{which} of {listing.table}"] = [GIVEN[name] for name in sweeping.parameters]


def submitted(request: str, key: str) -> str:
    """Return a call of the function that stores a run."""
    return (
        f"SELECT * FROM flowstone.submit({U}, 'p0', '', '[\"a\"]', '{{}}', '{{}}', 1::smallint, NULL, {request}, {key}, 's', "
        "'me', 'process', NULL, NULL)"
    )


async def test_what_is_asked_often_is_found_by_index(history: asyncpg.Connection) -> None:
    for name, arguments in ASKED.items():
        found = await plan(history, TEXTS[name], arguments)
        try:
            assert_by_index(found)
        except AssertionError as error:
            raise AssertionError(name) from error


async def test_the_hot_statement_finds_everything_by_index(history: asyncpg.Connection) -> None:
    for kinds in (set(KINDS), set(KINDS) - {"begins"}, {"goes", "keys", "events"}, {"begins", "events"}):
        found = statement(frozenset(kinds))
        arguments = [
            {"now": "NULL", "separator": "'|'", "null": "'~'", "payloads": "''"}.get(name, "''")
            for name in found.parameters
        ]
        assert_by_index(await plan(history, found.text, arguments))


@pytest.mark.parametrize(
    "text",
    [
        """SELECT * FROM flowstone.take_permits('w1', '{k1,k2}', '{5,5}', '{1,1}', '{5,5}', '{1,1}', '{0,0}', '{0,1}',
            '{0,1}', '{x,x}', NULL)""",
        """SELECT * FROM flowstone.change_slots('w', '{k3}', ARRAY[md5('h3')::uuid], '{k1,k2}', '{5,1}',
            ARRAY[md5('a'), md5('b')]::uuid[], '{x,x}', '{x,x}', '{0,1}', '{0,1}', '{x,x}', NULL)""",
    ],
    ids=["take_permits", "change_slots"],
)
async def test_limits_cost_the_same_however_many_keys_there_are(history: asyncpg.Connection, text: str) -> None:
    """RATE-02, RATE-04: 100,000 keys, holders and waiters; counted in blocks."""
    top = await cheapest(history, text)
    assert top["Actual Rows"] in (2, 3)
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 200


async def test_a_page_reads_no_more_than_itself(history: asyncpg.Connection) -> None:
    """In the blocks it touches, a page of 50 of 100,000 rows is far from the whole."""
    for name in ("all_events", "events", "runs", "keys", "audit", "superseded", "finished_runs", "limit_page"):
        arguments = [{"1000": "50", "100": "50"}.get(one, one) for one in ASKED[name]]
        types = ", ".join(one.name for one in (await history.prepare(QUERIES[name])).get_parameters())
        await history.execute(f"PREPARE page ({types}) AS {QUERIES[name]}")
        asked = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE page ({', '.join(arguments)})"
        top = json.loads(await history.fetchval(asked))[0]["Plan"]
        await history.execute("DEALLOCATE page")
        assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 1000, name


@pytest.mark.parametrize(
    ("text", "most"),
    [
        (
            QUERIES["claim"]
            .replace("$1", "'w'")
            .replace("$2", "ARRAY['p0', 'p1']")
            .replace("$3", "NULL")
            .replace("$4", "10")
            .replace("$5", "NULL")
            .replace("$6", "NULL"),
            800,
        ),
        (QUERIES["orphans_seen"].replace("$1", "'w'").replace("$2", "ARRAY['p0', 'p1']").replace("$3", "NULL"), 40),
        (submitted("NULL", "NULL"), 200),
        (submitted("'r777'", "NULL"), 200),
        (submitted("'new'", "'k777'"), 200),
        (submitted("'new'", "'new'"), 200),
    ],
    ids=["claim", "orphans", "submit", "submit, joined", "submit, known key", "submit, new key"],
)
async def test_the_queue_costs_the_same_however_long_it_and_the_history_are(
    history: asyncpg.Connection, text: str, most: int
) -> None:
    """JOB-13: 100,000 runs that wait for later, as many that have ended; counted in blocks."""
    top = await cheapest(history, text)
    assert top["Actual Rows"] in (1, 10)
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < most


def signalled(gate: str, token: str = "NULL") -> str:
    """Return a call of the function that delivers a signal."""
    return f"SELECT * FROM flowstone.signal({gate}, {token}, 'x', NULL, '{{}}', 60, NULL)"


@pytest.mark.parametrize(
    "text",
    [
        signalled("md5('g99999')::uuid"),
        signalled("NULL", "sha256('99999')"),
        signalled("md5('g150000')::uuid"),
        signalled("md5('none')::uuid"),
        signalled("NULL", "sha256('none')"),
        QUERIES["expire_gates"].replace("$1", "1").replace("$2", "NULL"),
        QUERIES["wake"]
        .replace("$1", "ARRAY[md5('q50000')::uuid, md5('q49999')::uuid]")
        .replace("$2", "NULL")
        .replace("$3", "false"),
        QUERIES["unwoken"].replace("$1", "1"),
        QUERIES["next_due"],
        QUERIES["suspend"]
        .replace("$1", "md5('q777')::uuid")
        .replace("$2", "1")
        .replace("$3", "0")
        .replace("$4", "NULL"),
    ],
    ids=["signal", "token", "ended", "early", "early token", "expire", "wake", "unwoken", "next due", "suspend"],
)
async def test_a_gate_costs_the_same_however_many_there_are(history: asyncpg.Connection, text: str) -> None:
    """SIG-03: 100,000 gates that are open, as many that have ended and as many signals that came early; in blocks."""
    top = await cheapest(history, text)
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 150


async def test_what_is_free_of_a_scatter_costs_the_same_however_much_of_it_is_done(history: asyncpg.Connection) -> None:
    """SCAT-22: 20,000 items that were tried again and are done, 99 that wait for later; counted in blocks."""
    await history.execute(
        "UPDATE flowstone.scatter_chunk SET due_at = now() WHERE scatter = md5('s1')::uuid AND first = 990"
    )
    await history.execute(
        "INSERT INTO flowstone.scatter_worker (scatter, worker, hungry) VALUES (md5('s1')::uuid, 'w', false)"
    )
    arguments = ["'w'", "md5('s1')::uuid", "10", "NULL", "NULL", "NULL", "10"]
    types = "text, uuid, int, timestamptz, bigint[], boolean[], int"
    await history.execute(f"PREPARE taking ({types}) AS {QUERIES['take_chunks']}")
    top = await cheapest(history, f"EXECUTE taking ({', '.join(arguments)})")
    assert top["Actual Rows"] == 1, "the one whose time has come"
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] < 200


# A run of the history; DAY stands for its own.
NEWEST = "md5('r1')::uuid"
OF_ONE_RUN: dict[str, list[str]] = {
    "events": [NEWEST, "0", "1000"],
    "last_event": [NEWEST],
    "committed_before": [NEWEST, "1", "1"],
    "commit_instants": [f"ARRAY[{NEWEST}::text]", "ARRAY['1']"],
    "forget_events": ["DAY", f"ARRAY[{NEWEST}]", "100"],
}


async def executed(connection: asyncpg.Connection, text: str, arguments: list[str]) -> list[dict[str, Any]]:
    """Return the nodes of the kept plan that were executed, without leaving anything behind."""
    types = ", ".join(one.name for one in (await connection.prepare(text)).get_parameters())
    await connection.execute(f"BEGIN; PREPARE touched ({types}) AS {text}")
    asked = f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE touched ({', '.join(arguments)})"
    top = json.loads(await connection.fetchval(asked))[0]["Plan"]
    await connection.execute("ROLLBACK; DEALLOCATE touched")
    return [node for node in nodes(top) if node["Actual Loops"] > 0]


@pytest.mark.parametrize("name", OF_ONE_RUN)
async def test_events_of_a_run_are_looked_for_in_one_partition(history: asyncpg.Connection, name: str) -> None:
    day = await history.fetchval(f"SELECT (created_at AT TIME ZONE 'UTC')::date FROM flowstone.run WHERE id = {NEWEST}")
    arguments = [f"'{day}'" if one == "DAY" else one for one in OF_ONE_RUN[name]]

    found = await executed(history, QUERIES[name], arguments)

    read = {node["Relation Name"] for node in found if node.get("Relation Name", "").startswith("event_")}
    assert read == {f"event_{day:%Y%m%d}"}


async def test_a_page_of_all_events_is_merged_and_not_sorted(history: asyncpg.Connection) -> None:
    arguments = ["ARRAY['p0']", "0", "50", "9223372036854775807"]
    found = await executed(history, QUERIES["all_events"], arguments)

    [merged] = [node for node in found if node["Node Type"] == "Merge Append"]
    assert merged["Actual Rows"] == 50
    assert sum(node["Actual Rows"] for node in found if node["Node Type"] == "Index Scan") < 100
