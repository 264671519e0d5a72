"""Where the items of a scatter come from: sources that are read page by page, and continued after a restart.

Read `source.py` first: what a source is and what it owes. `reading.py` reads any of them, with `attempt.py` running the
source's own code; `iterated.py` makes sources of iterables and generators; `postgres.py`, `s3.py` and `dynamodb.py` are
the built-in ones, whose options may be functions of dependencies (`options.py`). Importing this loads no driver.
"""

from __future__ import annotations

from flowstone_async.sources.dynamodb import DynamoDB
from flowstone_async.sources.postgres import Postgres
from flowstone_async.sources.s3 import S3, S3Object
from flowstone_async.sources.source import BadRow, Page, Source

__all__ = ["BadRow", "DynamoDB", "Page", "Postgres", "S3", "S3Object", "Source"]  # noqa: RUF022 - as `sorted` has it
