"""What DynamoDB is asked: every name and value behind an alias, and nothing that is not used."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.errors import ConfigError
from flowstone_async.sources import DynamoDB
from flowstone_async.sources.attributes import packed, restored_key, stored_key, unpacked

VALUES = {":a": 1, ":b": "two", ":status": "new", ":list": [1], ":never": 0}
NAMES = {"#s": "status", "#dot": "a.b", "#never": "x"}


@dataclass
class Doc:
    id: int


def _request(**options: Any) -> dict[str, Any]:
    source = DynamoDB(Doc, "t", expression_values=VALUES, expression_names=NAMES, **options)
    assert list(source.problems()) == []
    return source.request()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"TableName": "t"}),
        ({"index": "i", "consistent": True}, {"TableName": "t", "IndexName": "i", "ConsistentRead": True}),
        (
            {"where": {"status": "new", "name": 3}},
            {
                "TableName": "t",
                "KeyConditionExpression": "#n0 = :v0 AND #n1 = :v1",
                "ExpressionAttributeNames": {"#n0": "status", "#n1": "name"},
                "ExpressionAttributeValues": {":v0": {"S": "new"}, ":v1": {"N": "3"}},
            },
        ),
        (
            {"key_condition": "status = :status and begins_with(#s, :b)"},
            {
                "TableName": "t",
                "KeyConditionExpression": "#n0 = :v0 and begins_with(#n0, :v1)",
                "ExpressionAttributeNames": {"#n0": "status"},
                "ExpressionAttributeValues": {":v0": {"S": "new"}, ":v1": {"S": "two"}},
            },
        ),
        (
            {
                "where": {"id": 1},
                "filter": "NOT size = :a OR size (info.size) > :a AND #dot IN (:a, :b)",
                "projection": ["id", "info.list[0].name", "#dot"],
            },
            {
                "TableName": "t",
                "KeyConditionExpression": "#n0 = :v0",
                "FilterExpression": "NOT #n1 = :v1 OR size (#n2.#n1) > :v1 AND #n3 IN (:v1, :v2)",
                "ProjectionExpression": "#n0, #n2.#n4[0].#n5, #n3",
                "ExpressionAttributeNames": {
                    "#n0": "id",
                    "#n1": "size",
                    "#n2": "info",
                    "#n3": "a.b",
                    "#n4": "list",
                    "#n5": "name",
                },
                "ExpressionAttributeValues": {":v0": {"N": "1"}, ":v1": {"N": "1"}, ":v2": {"S": "two"}},
            },
        ),
    ],
)
def test_what_the_service_is_asked(options: Any, expected: dict[str, Any]) -> None:
    """READ-12."""
    assert _request(**options) == expected


_WORDS = st.sampled_from(["status", "name", "data", "order", "size", "contains", "a_b", "Zähler", "x1"])
_OPERANDS = st.sampled_from([*(name for name in VALUES), *NAMES])


@given(
    words=st.lists(_WORDS, min_size=1, max_size=6),
    operands=st.lists(_OPERANDS, max_size=6),
    projection=st.lists(_WORDS, min_size=1, max_size=4),
    key=st.dictionaries(_WORDS, st.integers(-(10**37), 10**37), min_size=1, max_size=2),
)
def test_nothing_but_aliases_is_in_an_expression_and_every_alias_is_used(
    words: list[str], operands: list[str], projection: list[str], key: dict[str, int]
) -> None:
    """READ-12: which the service insists on, for reserved words and for what is not used."""
    condition = " AND ".join(f"{word} = {operand}" for word, operand in zip(words, operands, strict=False))
    request = _request(where=key, filter=condition or None, projection=projection)
    sent = " ".join(value for name, value in request.items() if name.endswith("Expression"))
    left = re.sub(r"[#:]\w+", "", sent)
    assert set(re.findall(r"\w+", left)) <= {"AND"}
    used = set(re.findall(r"[#:]\w+", sent))
    assert used == {*request["ExpressionAttributeNames"], *request["ExpressionAttributeValues"]}
    names = list(request["ExpressionAttributeNames"].values())
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"where": {"a": 1}, "key_condition": "a = :a"}, "where= and key_condition= say the same: give one of the two"),
        ({"where": {}}, "where={}: give the value of the partition key"),
        ({"where": {"a": 1, "b": 2, "c": 3}}, "give the value of the partition key"),
        ({"where": "a"}, "where='a': give"),
        ({"where": {"a": object()}}, "where['a'] holds a object, which DynamoDB has not"),
        ({"filter": "a = :missing"}, "filter uses :missing, which expression_values= does not give"),
        ({"key_condition": "#k = :a"}, "key_condition uses #k, which expression_names= does not give"),
        ({"projection": [1]}, "projection=[1]: give names of attributes"),
        ({"projection": []}, "projection=[]: give"),
        ({"consistent": "yes"}, "consistent='yes': allowed are True, False"),
        ({"expression_values": [1]}, "expression_values=[1]: give a mapping with text as keys"),
        ({"table": ""}, "table='': give the name of a table"),
        ({"model": int}, "int is no type of rows"),
        ({"max_items": -1}, "max_items=-1: give"),
    ],
)
def test_a_wrong_option_is_a_problem(options: Any, problem: str) -> None:
    """READ-06, READ-12: of the definition."""
    given: dict[str, Any] = {"model": Doc, "table": "t", "expression_values": {":a": 1}, **options}
    (found,) = DynamoDB(**given).problems()
    assert problem in found


@pytest.mark.parametrize(
    ("value", "attribute"),
    [
        (None, {"NULL": True}),
        (True, {"BOOL": True}),
        ("", {"S": ""}),
        (3, {"N": "3"}),
        (0.1, {"N": "0.1"}),
        (Decimal("1.50"), {"N": "1.50"}),
        (10**37 + 1, {"N": str(10**37 + 1)}),
        (10**60, {"N": str(10**60)}),
        (b"\x00\xff", {"B": b"\x00\xff"}),
        ([1, ("a", {})], {"L": [{"N": "1"}, {"L": [{"S": "a"}, {"M": {}}]}]}),
        ({"a": {"b": None}}, {"M": {"a": {"M": {"b": {"NULL": True}}}}}),
        ({"a"}, {"SS": ["a"]}),
        (frozenset({1}), {"NS": ["1"]}),
        ({b"a"}, {"BS": [b"a"]}),
    ],
)
def test_values_of_the_service(value: Any, attribute: dict[str, Any]) -> None:
    """READ-12."""
    assert packed(value, what="it") == attribute
    back = unpacked(attribute)
    assert back == (Decimal("0.1") if value == 0.1 else [1, ["a", {}]] if isinstance(value, list) else value)


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), 10**39 + 1, Decimal("NaN"), set(), {1, "a"}, {True}, {1: 2}, object()]
)
def test_values_that_the_service_has_not(value: Any) -> None:
    """READ-12."""
    with pytest.raises(ConfigError, match="it holds"):
        packed(value, what="it")


def test_a_key_comes_back_from_where_it_is_stored() -> None:
    """READ-07, READ-12."""
    key = {"a": {"S": "x"}, "n": {"N": "1.50"}, "b": {"B": b"\x00\xff"}}
    stored = stored_key(key)
    assert stored == {"a": {"S": "x"}, "n": {"N": "1.50"}, "b": {"B": "AP8="}}
    assert restored_key(stored) == key  # pyright: ignore[reportArgumentType]
