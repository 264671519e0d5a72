"""Options that are functions of dependencies."""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, ClassVar
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.sources import Page
from flowstone_async.sources.options import Check, Configured
from flowstone_async.sources.plain import pack, unpack
from flowstone_async.sources.reading import read_pages
from tests.unit.sources.feeds import items_of, read_all


class Shop(Configured[Any]):
    """Gives its options as its items."""

    live = frozenset({"client"})
    checks: ClassVar[Mapping[str, Check]] = {"country": lambda value: None if isinstance(value, str) else "give text"}

    def __init__(
        self, country: object, *, client: object = None, where: object = None, max_items: object = False
    ) -> None:
        super().__init__({"country": country, "client": client, "where": where, "max_items": max_items})

    @override
    async def read(self, cursor: object) -> AsyncIterator[Page[Any]]:
        yield Page([self.option("country"), self.option("client"), self.option("where")], last=True)


async def _items(source: Shop) -> list[Any]:
    return items_of(await read_all(source))


async def test_a_value_is_taken_as_it_is() -> None:
    """READ-04."""
    source, recorded = await Shop("de", where={"a": [1]}).resolved({})
    assert await _items(source) == ["de", None, {"a": [1]}]
    assert recorded == {}


async def test_a_function_gets_its_dependencies_by_name_at_any_depth() -> None:
    """READ-04."""

    async def later(day: date) -> date:
        return day + timedelta(days=1)

    source = Shop(
        lambda region: region.upper(),
        where={
            "status": "new",
            "between": [lambda day: day, later],
            "deep": {"x": ({"y": functools.partial(lambda a: a + 2, 1)},)},
        },
        max_items=lambda limit=2: limit,
    )
    assert source.parameters() == ("region", "day", "limit")
    assert len(source.functions()) == 5
    made, recorded = await source.resolved({"region": "de", "day": date(2025, 1, 1)})
    assert made.max_items == 2
    made, _ = await source.resolved({"region": "de", "day": date(2025, 1, 1), "limit": 3})
    expected = {"status": "new", "between": [date(2025, 1, 1), date(2025, 1, 2)], "deep": {"x": ({"y": 3},)}}
    assert await _items(made) == ["DE", None, expected]
    assert json.loads(json.dumps(recorded)) == recorded
    assert source.max_items is False, "the definition stays as it was written"


async def test_the_values_are_used_again_after_a_restart() -> None:
    """READ-04: called once, however often it is restarted."""
    calls: list[str] = []

    def today(clock: str) -> date:
        calls.append(clock)
        return date(2025, 1, len(calls))

    source = Shop("de", where=[today])
    _, recorded = await source.resolved({"clock": "x"})
    again, same = await source.resolved({"clock": "y"}, json.loads(json.dumps(recorded)))
    assert await _items(again) == ["de", None, [date(2025, 1, 1)]]
    assert same == recorded
    assert calls == ["x"]


async def test_a_value_that_lives_is_not_stored_and_asked_for_again() -> None:
    """READ-04: a pool, a session."""
    source = Shop("de", client=lambda db: db)
    first, recorded = await source.resolved({"db": "here"})
    assert recorded == {}
    second, _ = await source.resolved({"db": "there"}, recorded)
    assert (await _items(first))[1] == "here"
    assert (await _items(second))[1] == "there"


async def test_a_function_that_is_new_since_the_last_start_is_called() -> None:
    """READ-04."""
    _, recorded = await Shop("de").resolved({})
    made, _ = await Shop(lambda: "fr").resolved({}, recorded)
    assert (await _items(made))[0] == "fr"


async def test_classes_and_other_objects_are_values() -> None:
    """READ-04: only functions are called."""

    class Callable:
        def __call__(self) -> str:
            return "called"

    one = Callable()
    made, _ = await Shop("de", client=int, where=[one]).resolved({})
    assert await _items(made) == ["de", int, [one]]


async def test_a_source_that_was_not_resolved_is_not_read() -> None:
    """READ-04."""
    with pytest.raises(ConfigError, match=r"Shop: country= is a function"):
        await anext(read_pages(Shop(lambda: "de")))


async def test_positional_and_variadic_parameters() -> None:
    """READ-04."""
    source = Shop(lambda region, /, *_, **__: region)
    assert source.parameters() == ("region",)
    made, _ = await source.resolved({"region": "de", "more": 1})
    assert (await _items(made))[0] == "de"


async def test_what_a_function_returns_is_checked_as_a_value_is() -> None:
    """READ-04: and what it cannot be before is a problem of the definition."""
    (problem,) = Shop(3).problems()
    assert problem == "country=3: give text"
    source = Shop(lambda: 3)
    assert list(source.problems()) == []
    made, _ = await source.resolved({})
    with pytest.raises(ConfigError, match="Shop: country=3: give text"):
        await anext(read_pages(made))


async def test_a_value_that_cannot_be_stored_is_refused() -> None:
    """READ-04."""
    with pytest.raises(ConfigError, match=r"Shop: what the function of where\['a'\] returned holds a object"):
        await Shop("de", where={"a": lambda: object()}).resolved({})


_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=st.sampled_from([None, UTC])).map(lambda at: at.replace(fold=0)),
    st.times().map(lambda at: at.replace(fold=0)),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)


@given(
    st.recursive(
        _LEAVES,
        lambda inner: st.one_of(
            st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.one_of(st.text(), st.just("$")), inner)
        ),
    )
)
def test_what_is_remembered_comes_back_equal_and_of_its_type(value: Any) -> None:
    """READ-04, READ-12, READ-14: through JSON."""
    back = unpack(json.loads(json.dumps(pack(value, what="it"))))
    assert back == value
    assert repr(back) == repr(value)


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        {1, 2},
        frozenset({"a"}),
        UUID(int=5),
        Decimal("1.50"),
        datetime(2025, 1, 1, tzinfo=UTC),
        time(1, 2, 3),
        ip_address("10.0.0.1"),
        ip_address("::1"),
        ip_network("10.0.0.0/8"),
        ip_interface("10.0.0.1/8"),
        ip_interface("::1/64"),
        ip_network("::/64"),
        {"$": "dict", "v": 1},
    ],
)
def test_more_that_comes_back(value: Any) -> None:
    """READ-04, READ-14."""
    back = unpack(json.loads(json.dumps(pack(value, what="it"))))
    assert (type(back), back) == (type(value), value)


@pytest.mark.parametrize("value", [object(), {1: 2}, [lambda: 1], range(3)])
def test_what_is_not_remembered_is_refused(value: Any) -> None:
    """READ-04."""
    with pytest.raises(ConfigError, match="it holds a "):
        pack(value, what="it")
