"""The durable store on Postgres. docs/store.md tells its tables, its transactions and what survives what.

`store.py` is the port; read next `committer.py`, through which every step of every run goes, and the statement it
sends, `queries/advance.sql`. `step.py` and `batch.py` lay steps out as its columns. `lease.py` keeps the worker alive,
`ownership.py` gives dead workers' runs to others, `hints.py` and `listener.py` wake those who wait, `migrate.py` makes
the schema. `errors.py` alone knows SQLSTATEs, `connections.py` alone the driver's connections.
"""

from flowstone_async.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
