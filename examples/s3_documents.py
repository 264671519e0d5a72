"""Count the words of all text files in a bucket: `BUCKET=my-documents flowstone run examples/s3_documents.py report`.

Where the service answers and who you are is found as by every AWS tool: `AWS_PROFILE`, or `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, and `AWS_ENDPOINT_URL` for one that is not Amazon's. `PREFIX` says which files.
Needs `pip install "flowstone_async[aws]"`.

The bucket is listed page by page while the first files are read already; an hour later it is listed again. A run that
was killed goes on behind the last page, and reads no file again that it had counted. A file that is no text fails
alone, and the report has its name.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from flowstone_async import Cache, Gathered, Pipeline, Retry, sources

BUCKET, PREFIX = os.environ.get("BUCKET", "my-documents"), os.environ.get("PREFIX", "")

pipe = Pipeline("s3_documents")


@dataclass
class Words:
    """The words of a document."""

    count: int
    most_common: dict[str, int]


@dataclass
class Report:
    """The words of all documents.

    Attributes:
        longest: Keys and numbers of words of the longest documents.
        unreadable: Keys of the files that are no text, and why.
    """

    documents: int
    words: int
    longest: list[tuple[str, int]]
    most_common: list[tuple[str, int]]
    unreadable: dict[str, str]


def version(obj: sources.S3Object) -> tuple[str, str]:
    """Tell objects apart, also from what was called the same before."""
    return obj.key, obj.etag


@pipe.scatter(
    sources.S3(BUCKET, prefix=PREFIX, suffix=(".txt", ".md")),
    key=version,
    max_concurrent=20,
    timeout="1m",
    retry=Retry(4, when=lambda error: not isinstance(error, UnicodeDecodeError)),
    tolerate=0.05,
    cache=Cache(ttl="1h"),
)
async def words(obj: sources.S3Object) -> Words:
    """Count the words of one document."""
    counted = Counter((await obj.read()).decode().lower().split())
    return Words(counted.total(), dict(counted.most_common(100)))


@words.gather
async def report(results: Gathered[Words]) -> Report:
    """Add all documents up; they come from the store one after another, and never all at once."""
    lengths, most_common = dict[str, int](), Counter[str]()
    async for (key, _), found in results.items():
        lengths[key] = found.count
        most_common.update(found.most_common)
    return Report(
        documents=results.succeeded,
        words=sum(lengths.values()),
        longest=Counter(lengths).most_common(10),
        most_common=most_common.most_common(20),
        unreadable={failure.item.key: failure.message async for failure in results.failures()},
    )
