"""The kind of an asset whose body is called once for each item of a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from flowstone_async.definition.batching import Batching
from flowstone_async.definition.gathered import Gathered, ItemOrder
from flowstone_async.definition.item_source import SourceSpec
from flowstone_async.definition.policy import Retry
from flowstone_async.definition.returned_gate import ReturnedGate, requests_in, without_gates
from flowstone_async.definition.tolerance import NO_FAILURE, Tolerance
from flowstone_async.limits.rate import Rate

ResultForm: TypeAlias = Literal["packed", "rows"]
MAX_CONCURRENT = 50
PAGE_SIZE = 1000
RETRY = Retry(3)
TIMEOUT = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScatterKind:
    """One call of the body for each item gives one result; all of them are the value.

    Retry and timeout are those of one item. Those of the definition are not given: nothing bounds the asset as a whole.

    Attributes:
        source: Where the items come from.
        max_concurrent: Most bodies at once, over all workers; None for no bound.
        rate: How often items may begin, over all workers; None for no bound.
        tolerate: How many items may fail for good.
        retry: How often an item is tried.
        timeout: Seconds for each attempt at an item; None for no limit.
        select: Makes of an item what the body receives; None for the item itself.
        key: Gives what the body receives its identity; None for its content, False for its position.
        order: In which a `Gathered` of the results is read.
        page_size: Items that are read and recorded together.
        results: How results are stored: many in a row, or a row for each.
        batch: How items are put together for the body; None if it receives them one by one.
        gate: The gate that the body may return for an item, in place of its result; None if it must be the result.
    """

    source: SourceSpec
    max_concurrent: int | None = MAX_CONCURRENT
    rate: Rate | None = None
    tolerate: Tolerance = NO_FAILURE
    retry: Retry = RETRY
    timeout: float | None = TIMEOUT
    select: Callable[..., Any] | None = None
    key: Callable[..., Any] | Literal[False] | None = None
    order: ItemOrder = "source"
    page_size: int = PAGE_SIZE
    results: ResultForm = "packed"
    batch: Batching[Any] | None = None
    gate: ReturnedGate | None = None

    label = "scatter"

    @property
    def per_page(self) -> int:
        """What a full page of the source gives the body to do: items, or batches."""
        return self.page_size if self.batch is None else -(-self.page_size // self.batch.max_items)

    def value_type(self, returns: object) -> object:
        """Return the type of one result."""
        return without_gates(returns) if self.gate is not None or requests_in(returns) else returns

    def read_type(self, value_type: Any) -> object:
        """Return what such results are gathered in."""
        return Gathered[Any if value_type is None else value_type]
