"""Items of a table as items."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.sources import BadRow, DynamoDB
from flowstone_async.sources.attributes import packed
from tests.unit.sources.feeds import items_of, read_all


@dataclass(frozen=True)
class Doc:
    id: str
    n: int
    status: str
    price: float = 0.0
    tags: set[str] = field(default_factory=set)


@pytest.fixture(scope="session")
def table(dynamodb: Any) -> str:
    """Twelve items in two partitions, two of three new, with a global and a local index."""
    return _filled(dynamodb, "documents")


def _filled(dynamodb: Any, name: str) -> str:
    dynamodb.create_table(
        TableName=name,
        AttributeDefinitions=[
            {"AttributeName": each, "AttributeType": kind} for each, kind in (("id", "S"), ("n", "N"), ("status", "S"))
        ],
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}, {"AttributeName": "n", "KeyType": "RANGE"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "status-index",
                "KeySchema": [
                    {"AttributeName": "status", "KeyType": "HASH"},
                    {"AttributeName": "n", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
        LocalSecondaryIndexes=[
            {
                "IndexName": "local",
                "KeySchema": [
                    {"AttributeName": "id", "KeyType": "HASH"},
                    {"AttributeName": "status", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
        BillingMode="PAY_PER_REQUEST",
    )
    for number in range(12):
        row = {
            "id": "ab"[number % 2],
            "n": number,
            "status": ("new", "new", "old")[number % 3],
            "price": Decimal(number) / 4,
            "tags": {"x", f"t{number}"},
            "info": {"name": f"name {number}", "list": [number, None, True]},
        }
        dynamodb.put_item(TableName=name, Item={key: packed(value, what=key) for key, value in row.items()})
    return name


def _numbers(items: list[Any]) -> list[int]:
    return sorted(item["n"] if isinstance(item, dict) else item.n for item in items)


async def _read_with_restarts(source: DynamoDB[Any], size: int) -> list[Any]:
    token: object = None
    found: list[Any] = []
    while True:
        (page,) = await read_all(source, token, pages=1, page_size=size)
        found += page.items
        if page.last:
            return found
        token = json.loads(json.dumps(page.token))


async def test_a_whole_table_is_scanned(table: str, endpoint: str) -> None:
    """READ-12: killed after every page, too."""
    source = DynamoDB(Doc, table, endpoint_url=endpoint)
    assert list(source.problems()) == []
    assert source.item_type is Doc
    found = items_of(await read_all(source))
    assert _numbers(found) == list(range(12))
    assert Doc("b", 3, "new", 0.75, {"x", "t3"}) in found
    for size in (1, 5, 12):
        assert _numbers(await _read_with_restarts(source, size)) == list(range(12))


async def test_items_may_stay_as_they_are(table: str, endpoint: str) -> None:
    """READ-12: whole numbers as int, others as Decimal."""
    found = items_of(await read_all(DynamoDB(dict, table, endpoint_url=endpoint, where={"id": "b", "n": 3})))
    assert found == [
        {
            "id": "b",
            "n": 3,
            "status": "new",
            "price": Decimal("0.75"),
            "tags": {"x", "t3"},
            "info": {"name": "name 3", "list": [3, None, True]},
        }
    ]
    assert type(found[0]["n"]) is int


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"where": {"id": "a"}}, [0, 2, 4, 6, 8, 10]),
        ({"where": {"id": "a", "n": 4}}, [4]),
        ({"where": {"id": "a"}, "consistent": True}, [0, 2, 4, 6, 8, 10]),
        ({"where": {"status": "old"}, "index": "status-index"}, [2, 5, 8, 11]),
        ({"where": {"id": "a", "status": "old"}, "index": "local", "consistent": True}, [2, 8]),
        (
            {
                "key_condition": "status = :status AND n BETWEEN :low AND :high",
                "expression_values": {":status": "new", ":low": 3, ":high": 7, ":unused": 1},
                "index": "status-index",
            },
            [3, 4, 6, 7],
        ),
        (
            {
                "key_condition": "#p = :p",
                "expression_names": {"#p": "id", "#unused": "x"},
                "expression_values": {":p": "a"},
                "filter": "status = :s AND size(tags) > :s2",
            }
            | {"expression_values": {":p": "a", ":s": "old", ":s2": 1}},
            [2, 8],
        ),
        ({"filter": "info.name = :name", "expression_values": {":name": "name 7"}}, [7]),
        ({"filter": "info.list[0] IN (:a, :b)", "expression_values": {":a": 7, ":b": 8}}, [7, 8]),
        ({"filter": "attribute_not_exists(status)"}, []),
        ({"filter": "NOT (contains(tags, :t))", "expression_values": {":t": "x"}}, []),
        ({"where": {"id": "a"}, "max_items": 4}, [0, 2, 4, 6]),
    ],
)
async def test_what_is_read_can_be_chosen(table: str, endpoint: str, options: Any, expected: list[int]) -> None:
    """READ-05, READ-06, READ-12: whatever the filter leaves of a page, the last evaluated key is followed."""
    source = DynamoDB(Doc, table, endpoint_url=endpoint, **options)
    assert list(source.problems()) == []
    for size in (1, 1000):
        assert _numbers(items_of(await read_all(source, page_size=size))) == expected
    assert _numbers(await _read_with_restarts(source, 3)) == expected


async def test_a_page_that_the_filter_emptied_ends_nothing(table: str, endpoint: str) -> None:
    """READ-05, READ-12."""
    source = DynamoDB(
        Doc, table, endpoint_url=endpoint, where={"id": "a"}, filter="n = :n", expression_values={":n": 10}
    )
    pages = await read_all(source, page_size=1)
    assert [len(page.items) for page in pages][:6] == [0, 0, 0, 0, 0, 1]
    assert pages[-1].last


async def test_a_projection_reads_some_attributes(table: str, endpoint: str) -> None:
    """READ-12: whose names may be reserved, and paths."""
    for projection in (["status", "n", "info.name"], "status, n, info.name"):
        source = DynamoDB(dict, table, endpoint_url=endpoint, where={"id": "a", "n": 4}, projection=projection)
        assert items_of(await read_all(source)) == [{"status": "new", "n": 4, "info": {"name": "name 4"}}]


async def test_keys_of_bytes_and_fractions_survive_a_restart(dynamodb: Any, name: str, endpoint: str) -> None:
    """READ-07, READ-12."""
    dynamodb.create_table(
        TableName=name,
        AttributeDefinitions=[
            {"AttributeName": "k", "AttributeType": "B"},
            {"AttributeName": "at", "AttributeType": "N"},
        ],
        KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}, {"AttributeName": "at", "KeyType": "RANGE"}],
        BillingMode="PAY_PER_REQUEST",
    )
    keys = [(bytes([first, 255, 0]), Decimal(number) / 10) for first in (0, 200) for number in range(4)]
    for key, at in keys:
        dynamodb.put_item(TableName=name, Item={"k": packed(key, what=""), "at": packed(at, what="")})
    found = await _read_with_restarts(DynamoDB(dict, name, endpoint_url=endpoint), 1)
    assert sorted((row["k"], row["at"]) for row in found) == keys


async def test_consistent_reads_of_a_global_index_are_refused(table: str, endpoint: str) -> None:
    """READ-12: before any item."""
    source = DynamoDB(Doc, table, endpoint_url=endpoint, index="status-index", where={"status": "new"}, consistent=True)
    with pytest.raises(ConfigError, match="consistent=True, but 'status-index' is a global index"):
        await read_all(source)


async def test_an_item_that_does_not_fit_is_an_item_that_failed(dynamodb: Any, name: str, endpoint: str) -> None:
    """READ-10."""
    table = _filled(dynamodb, name)
    dynamodb.put_item(TableName=table, Item={"id": {"S": "a"}, "n": {"N": "3"}, "tags": {"SS": ["p", "q", "r"]}})
    for size in (2, 100):
        found = items_of(await read_all(DynamoDB(Doc, table, endpoint_url=endpoint, where={"id": "a"}), page_size=size))
        (bad,) = [item for item in found if isinstance(item, BadRow)]
        assert (bad.message, bad.position) == ("status: Field required", 2)
        assert len(found) == 7


async def test_a_table_that_is_not_there_is_told_at_once(endpoint: str, name: str) -> None:
    """READ-12: not tried again."""
    with pytest.raises(ConfigError, match=rf"DynamoDB\({name}\): .*ResourceNotFoundException"):
        await read_all(DynamoDB(Doc, name, endpoint_url=endpoint))


async def test_what_the_service_finds_wrong_is_told_at_once(table: str, endpoint: str) -> None:
    """READ-12."""
    with pytest.raises(ConfigError, match="ValidationException"):
        await read_all(DynamoDB(Doc, table, endpoint_url=endpoint, where={"status": "new"}))


async def test_options_may_be_functions_of_dependencies(table: str, endpoint: str) -> None:
    """READ-04: at any depth."""
    source = DynamoDB(
        Doc,
        table,
        endpoint_url=endpoint,
        where={"id": lambda part: part},
        filter="n > :least",
        expression_values={":least": lambda least: least},
    )
    assert source.parameters() == ("part", "least")
    assert list(source.problems()) == []
    made, recorded = await source.resolved({"part": "a", "least": Decimal("5.5")})
    assert _numbers(items_of(await read_all(made))) == [6, 8, 10]
    again, _ = await source.resolved({"part": "b", "least": 0}, json.loads(json.dumps(recorded)))
    assert _numbers(items_of(await read_all(again))) == [6, 8, 10]
