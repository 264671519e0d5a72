"""Objects of a bucket as items."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from flowstone_async.errors import ConfigError, SourceError
from flowstone_async.io.codec import codec_for
from flowstone_async.retry import Retry
from flowstone_async.sources import S3, S3Object, aws
from flowstone_async.sources.aws import Origin
from flowstone_async.sources.reading import read_pages
from tests.unit.sources.feeds import items_of, read_all

KEYS = [
    *("a.txt", "b.pdf", "dir/", "dir/c.pdf", "dir/d.txt", "dir/sub/e.pdf"),
    *("odd &?+=.pdf", "päivä/ключ.pdf", 'quo"te.txt', "z.txt"),
]


@pytest.fixture(scope="session")
def bucket(s3: Any) -> str:
    """A bucket with ten objects, each with its own key as contents."""
    s3.create_bucket(Bucket="documents")
    for key in KEYS:
        s3.put_object(Bucket="documents", Key=key, Body=key.encode())
    return "documents"


def _keys(objects: Sequence[Any]) -> list[str]:
    return [each.key for each in objects]


async def test_the_objects_of_a_bucket_are_items(bucket: str, endpoint: str) -> None:
    """READ-11."""
    source = S3(bucket, endpoint_url=endpoint)
    assert list(source.problems()) == []
    assert source.item_type is S3Object
    found = items_of(await read_all(source))
    assert _keys(found) == sorted(KEYS, key=str.encode)
    first = found[0]
    assert (first.key, first.size, first.bucket) == ("a.txt", 5, bucket)
    assert first.etag == hashlib.md5(b"a.txt").hexdigest()
    assert first.last_modified.tzinfo is UTC
    assert abs((datetime.now(UTC) - first.last_modified).total_seconds()) < 3600


async def test_an_object_reads_its_contents(bucket: str, endpoint: str) -> None:
    """READ-11: of whatever name, alone and while connections are lent to bodies."""
    source = S3(bucket, endpoint_url=endpoint)
    found = items_of(await read_all(source))
    assert await found[0].read() == b"a.txt"
    async with source.lending():
        for each in found:
            assert await each.read() == each.key.encode()


async def test_an_object_is_rebuilt_after_storage(bucket: str, endpoint: str) -> None:
    """READ-11, SCAT-03: in another process it knows where it is, and holds no credentials."""
    (found,) = items_of(await read_all(S3(bucket, prefix="a.", endpoint_url=endpoint, region="us-east-1")))
    codec = codec_for(S3Object)
    assert codec.supports() is None
    data = codec.encode(found)
    assert b"testing" not in data
    rebuilt = codec.decode(data)
    assert rebuilt == found
    assert isinstance(rebuilt, S3Object)
    assert await rebuilt.read() == b"a.txt"


@pytest.mark.parametrize("size", [1, 3, 4, 9])
async def test_killed_after_every_page_it_continues_behind_it(bucket: str, endpoint: str, size: int) -> None:
    """READ-07, READ-11."""
    source = S3(bucket, endpoint_url=endpoint, start_after="b.pdf")
    token: object = None
    found: list[Any] = []
    while True:
        (page,) = await read_all(source, token, pages=1, page_size=size)
        found += page.items
        if page.last:
            break
        token = json.loads(json.dumps(page.token))
    assert _keys(found) == sorted(KEYS, key=str.encode)[2:]


async def test_a_page_from_which_the_suffix_removes_everything_is_followed_by_the_next(
    s3: Any, name: str, endpoint: str
) -> None:
    """READ-05, READ-11."""
    s3.create_bucket(Bucket=name)
    for key in ["a.txt", "b.txt", "c.txt", "d.pdf", "e.txt"]:
        s3.put_object(Bucket=name, Key=key, Body=b"")
    pages = await read_all(S3(name, suffix=".pdf", endpoint_url=endpoint), page_size=2)
    assert [_keys(page.items) for page in pages] == [[], ["d.pdf"], []]
    assert [page.last for page in pages] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"prefix": "dir/"}, ["dir/", "dir/c.pdf", "dir/d.txt", "dir/sub/e.pdf"]),
        ({"prefix": "dir/", "suffix": ".pdf"}, ["dir/c.pdf", "dir/sub/e.pdf"]),
        ({"prefix": "päivä"}, ["päivä/ключ.pdf"]),
        ({"suffix": [".pdf", ".txt"], "prefix": "dir/"}, ["dir/c.pdf", "dir/d.txt", "dir/sub/e.pdf"]),
        ({"start_after": "päivä/ключ.pdf"}, ['quo"te.txt', "z.txt"]),
        ({"prefix": "dir/", "start_after": "dir/c.pdf"}, ["dir/d.txt", "dir/sub/e.pdf"]),
        ({"suffix": ".pdf", "max_items": 2}, ["b.pdf", "dir/c.pdf"]),
        ({"prefix": "nowhere/"}, []),
    ],
)
async def test_what_is_listed_can_be_chosen(bucket: str, endpoint: str, options: Any, expected: list[str]) -> None:
    """READ-06, READ-11."""
    for size in (1, 2, 1000):
        found = _keys(items_of(await read_all(S3(bucket, endpoint_url=endpoint, **options), page_size=size)))
        assert sorted(found, key=str.encode) == sorted(expected, key=str.encode)


class Listing:
    """A session whose client notes what it is asked and gives prepared answers."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers, self.asked = list(answers), list[dict[str, Any]]()

    def create_client(self, *_: object, **__: object) -> Listing:
        return self

    def get_component(self, _: str) -> Any:
        return type("Loader", (), {"load_data": lambda *_: None, "load_service_model": lambda *_: None})()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def list_objects_v2(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        return self.answers.pop(0)


async def test_start_after_goes_with_the_first_request_only() -> None:
    """READ-11: then the token; also of the first request after a restart."""
    session = Listing({"NextContinuationToken": "t1"}, {"NextContinuationToken": "t2"}, {"KeyCount": 0})
    source = S3("b", prefix="p", start_after="k", request_payer=True, session=session)
    pages = await read_all(source, page_size=10)
    every = {"Bucket": "b", "Prefix": "p", "MaxKeys": 10, "RequestPayer": "requester"}
    assert session.asked == [
        {**every, "StartAfter": "k"},
        {**every, "ContinuationToken": "t1"},
        {**every, "ContinuationToken": "t2"},
    ]
    assert pages[0].token == {"cursor": "t1"}
    session.answers.append({"KeyCount": 0})
    await read_all(source, pages[0].token, page_size=10)
    assert session.asked[-1] == {**every, "ContinuationToken": "t1"}


@pytest.mark.parametrize(("size", "asked"), [(1, 1), (1000, 1000), (5000, 1000)])
async def test_a_thousand_are_asked_for_at_most(size: int, asked: int) -> None:
    """READ-03, READ-11: more the service does not give at once."""
    session = Listing({"KeyCount": 0})
    await read_all(S3("b", session=session), page_size=size)
    assert session.asked == [{"Bucket": "b", "MaxKeys": asked}]


async def test_a_session_is_lent_to_the_bodies_of_its_own_source(
    bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """READ-11: one client for all of them, with the credentials of the source; no other source's objects use it."""
    from aiobotocore.session import AioSession

    made: list[str] = []

    class Counting(AioSession):
        def create_client(self, *args: Any, **options: Any) -> Any:
            made.append("mine")
            return super().create_client(*args, **options)

    session = Counting()
    session.set_credentials("my", "own")
    source = S3(bucket, endpoint_url=endpoint, session=session)
    first, second, *_ = items_of(await read_all(source))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    made.clear()
    async with source.lending():
        assert made == [], "opened when it is wanted"
        assert (await first.read(), await second.read()) == (b"a.txt", b"b.pdf")
        assert made == ["mine"]
        other = S3Object(
            key="a.txt", size=1, etag="", last_modified=first.last_modified, bucket=bucket, origin=Origin(region="x")
        )
        with pytest.raises(Exception, match=r"credentials"):
            await other.read()
    with pytest.raises(Exception, match=r"credentials"):
        await first.read()


async def test_a_client_is_made_away_from_the_event_loop(
    bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G: importing the driver and reading its models takes up to seconds."""
    import threading

    prepared, threads = aws._prepared, set[threading.Thread]()

    def noting(*args: Any) -> Any:
        threads.add(threading.current_thread())
        return prepared(*args)

    monkeypatch.setattr(aws, "_prepared", noting)
    await read_all(S3(bucket, endpoint_url=endpoint))
    assert threads
    assert threading.main_thread() not in threads


async def test_a_bucket_that_is_not_there_is_told_at_once(endpoint: str, name: str) -> None:
    """READ-11: not tried again."""
    with pytest.raises(ConfigError, match=rf"S3\({name}/\): .*NoSuchBucket"):
        await read_all(S3(name, endpoint_url=endpoint))


async def test_a_service_that_cannot_be_reached_is_a_source_error(bucket: str) -> None:
    """READ-09."""
    from botocore.config import Config

    config = Config(retries={"max_attempts": 0}, connect_timeout=1)
    source = S3(bucket, endpoint_url="http://127.0.0.1:9", config=config, read_retry=Retry(2, backoff="none"))
    with pytest.raises(SourceError, match="Could not connect") as raised:
        await read_all(source)
    assert raised.value.details["source"] == f"S3({bucket}/)"


async def test_left_early_it_closes_its_connections(bucket: str, endpoint: str) -> None:
    """READ-01: a client that is left open would warn, which fails a test."""
    async with aclosing(read_pages(S3(bucket, endpoint_url=endpoint), page_size=2)) as reading:
        await anext(reading)


async def test_options_may_be_functions_of_dependencies(bucket: str, endpoint: str) -> None:
    """READ-04."""

    async def last(done: str) -> str:
        return done

    source = S3(
        lambda b: b,
        prefix=lambda: "",
        suffix=[lambda kind: f".{kind}"],
        start_after=last,
        endpoint_url=lambda where: where,
        max_items=lambda: 2,
    )
    assert list(source.problems()) == []
    assert source.label == "S3(.../...)"
    made, recorded = await source.resolved({"b": bucket, "kind": "pdf", "done": "b.pdf", "where": endpoint})
    assert _keys(items_of(await read_all(made))) == ["dir/c.pdf", "dir/sub/e.pdf"]
    again, _ = await source.resolved({}, json.loads(json.dumps(recorded)))
    assert _keys(items_of(await read_all(again))) == ["dir/c.pdf", "dir/sub/e.pdf"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"bucket": ""}, "bucket='': give the name of a bucket"),
        ({"prefix": None}, "prefix=None: give text"),
        ({"suffix": [1]}, "suffix=[1]: give text, or several"),
        ({"start_after": 3}, "start_after=3: give text, or leave it out"),
        ({"region": 3}, "region=3: give text, or leave it out"),
        ({"session": "x"}, "session='x': give an aiobotocore session"),
        ({"config": {}}, "config={}: give a botocore.config.Config"),
        ({"request_payer": 1}, "request_payer=1: allowed are True, False"),
        ({"session": Listing(), "profile": "x"}, "profile= says nothing beside session="),
        ({"max_items": 0}, "max_items=0: give"),
    ],
)
def test_a_wrong_option_is_a_problem(options: Any, problem: str) -> None:
    """READ-06, READ-11: of the definition."""
    given: dict[str, Any] = {"bucket": "b", **options}
    (found,) = S3(**given).problems()
    assert problem in found
