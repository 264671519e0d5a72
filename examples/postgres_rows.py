"""Check every invoice of a table: `flowstone run examples/postgres_rows.py report --store postgresql://you@host/shop`.

    CREATE TABLE invoice (id bigint PRIMARY KEY, customer text, kind text, net numeric, gross numeric, state text);

The table lies in the database that is the store, and may be as large as it likes. It is read by keyset, page by page:
nothing is held open meanwhile, and a run that was killed goes on behind its last page and checks no invoice again that
it had checked. A table elsewhere is read with `pool=`, an asyncpg pool. A row of which nothing can be made fails alone,
and the report has its number.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from flowstone_async import Cache, Gathered, Pipeline, Tolerance, sources

TAX = {"book": Decimal("0.07"), "lamp": Decimal("0.19")}
CENT = Decimal("0.01")

pipe = Pipeline("postgres_rows")


@dataclass(frozen=True)
class Invoice:
    """A row of the table."""

    id: int
    customer: str
    kind: str
    net: Decimal
    gross: Decimal


@dataclass
class Report:
    """What was found.

    Attributes:
        wrong: Number of an invoice -> what it says too much; below zero, too little.
        owed: Customer -> what they paid too much, over all their invoices.
        failed: Number of an invoice -> why it could not be checked.
    """

    checked: int
    wrong: dict[int, Decimal]
    owed: dict[str, Decimal]
    failed: dict[int, str]


invoices = sources.Postgres(
    Invoice, "SELECT id, customer, kind, net, gross FROM invoice WHERE state = $1", "issued", cursor="id"
)


def number(invoice: Invoice) -> int:
    """Return what an invoice is known by."""
    return invoice.id


@pipe.scatter(invoices, key=number, retry=False, tolerate=Tolerance(count=100), cache=Cache(ttl="1h"))
async def excess(invoice: Invoice) -> tuple[str, Decimal]:
    """Return who was charged, and by how much too much."""
    due = invoice.net * (1 + TAX[invoice.kind])
    return invoice.customer, invoice.gross - due.quantize(CENT, ROUND_HALF_UP)


@excess.gather
async def report(results: Gathered[tuple[str, Decimal]]) -> Report:
    """Collect what is wrong, as it comes from the store: the invoices that are right take no memory."""
    wrong, owed = dict[int, Decimal](), defaultdict[str, Decimal](Decimal)
    async for invoice, (customer, too_much) in results.items():
        if too_much:
            wrong[invoice] = too_much
            owed[customer] += too_much
    failed = {failure.key: failure.message async for failure in results.failures()}
    return Report(results.succeeded, wrong, dict(owed), failed)
