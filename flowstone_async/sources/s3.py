"""Objects of an S3 bucket as items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, cast

from typing_extensions import override

from flowstone_async.retry import Duration, Retry
from flowstone_async.sources.aws import Amazon, Origin, connected, text_or_none
from flowstone_async.sources.options import Check, Computed
from flowstone_async.sources.source import READ_RETRY, READ_TIMEOUT, Page

CAP = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Object:
    """An object as it was listed; `await obj.read()` fetches its contents.

    It is plain data, which can be stored and read again in any process. Credentials are no part of it.

    Attributes:
        key: Its whole name within the bucket.
        size: Bytes.
        etag: Entity tag, without quotes.
        last_modified: When it was written, in UTC.
        bucket: Name of the bucket.
        origin: Where the service answers.
        request_payer: Whether who reads it pays.
    """

    key: str
    size: int
    etag: str
    last_modified: datetime
    bucket: str
    origin: Origin = field(default_factory=Origin)
    request_payer: bool = False

    async def read(self) -> bytes:
        """Return the contents.

        In the body of an item the connections of its source are used, and the `session=` it was given. Elsewhere a
        client is made for this call, with the credentials of the environment.
        """
        lent = _LENT.get().get(self.origin)
        if lent is not None:
            return await self._fetch(await lent.client())
        async with connected("s3", self.origin) as client:
            return await self._fetch(client)

    async def _fetch(self, client: Any) -> bytes:
        payer = {"RequestPayer": "requester"} if self.request_payer else {}
        answer = await client.get_object(Bucket=self.bucket, Key=self.key, **payer)
        async with answer["Body"] as body:
            return await body.read()


class S3(Amazon[S3Object]):
    """The objects of a bucket, by listing it, in the order of the bucket.

    Credentials are found as by every AWS tool. Options may be functions of dependencies, by name. Needs the extra
    `aws`.

    Args:
        bucket: Name of the bucket.
        prefix: What keys begin with.
        suffix: What keys end with, or several such; others are listed and left out.
        start_after: Key to begin behind.
        region: Region; by default that of the environment.
        endpoint_url: Address of a service that speaks S3 and is not Amazon's.
        profile: Profile of the AWS configuration files.
        session: An aiobotocore session, for credentials of your own.
        config: A `botocore.config.Config`, for retries, proxies, addressing, unsigned requests.
        request_payer: Whether you pay for a bucket whose owner asks for that.
        max_items: The most objects, or False for all.
        read_retry: How often listing is tried again after an error; False for never.
        read_timeout: How long a page may take; False for as long as it likes.

    Example:
        >>> sources.S3("my-documents", prefix="inbox/", suffix=".pdf")
    """

    page_cap = CAP
    checks: ClassVar[Mapping[str, Check]] = {
        **Amazon.checks,
        "bucket": lambda value: None if isinstance(value, str) and value else "give the name of a bucket",
        "prefix": lambda value: None if isinstance(value, str) else "give text",
        "suffix": lambda value: None if _is_suffix(value) else "give text, or several",
        "start_after": text_or_none,
        "request_payer": lambda value: None if isinstance(value, bool) else "allowed are True, False",
    }

    def __init__(
        self,
        bucket: Computed[str],
        *,
        prefix: Computed[str] = "",
        suffix: Computed[str | Sequence[Computed[str]]] = "",
        start_after: Computed[str | None] = None,
        region: Computed[str | None] = None,
        endpoint_url: Computed[str | None] = None,
        profile: Computed[str | None] = None,
        session: object = None,
        config: object = None,
        request_payer: Computed[bool] = False,
        max_items: Computed[int | Literal[False]] = False,
        read_retry: Retry | Literal[False] = READ_RETRY,
        read_timeout: Duration | Literal[False] = READ_TIMEOUT,
    ) -> None:
        options: dict[str, object] = {
            "bucket": bucket,
            "prefix": prefix,
            "suffix": suffix,
            "start_after": start_after,
            "region": region,
            "endpoint_url": endpoint_url,
            "profile": profile,
            "session": session,
            "config": config,
            "request_payer": request_payer,
            "max_items": max_items,
        }
        super().__init__(options, read_retry=read_retry, read_timeout=read_timeout)

    @property
    @override
    def label(self) -> str:
        bucket, prefix = (self._options[name] for name in ("bucket", "prefix"))
        return f"S3({bucket if isinstance(bucket, str) else '...'}/{prefix if isinstance(prefix, str) else '...'})"

    @property
    @override
    def item_type(self) -> Any:
        return S3Object

    @override
    def read(self, cursor: Any) -> AsyncIterator[Page[S3Object]]:
        return self.read_sized(cursor, CAP)

    @override
    async def read_sized(self, cursor: Any, page_size: int) -> AsyncIterator[Page[S3Object]]:
        request = self._request(min(page_size, CAP))
        if cursor is not None:
            request["ContinuationToken"] = cursor
        elif self.option("start_after"):
            request["StartAfter"] = self.option("start_after")
        async with self.client("s3") as client:
            while True:
                answer = await client.list_objects_v2(**request)
                token = answer.get("NextContinuationToken")
                yield Page(list(self._objects(answer)), token, last=token is None)
                if token is None:
                    return
                request.pop("StartAfter", None)
                request["ContinuationToken"] = token

    def _request(self, size: int) -> dict[str, Any]:
        request: dict[str, Any] = {"Bucket": self.option("bucket"), "MaxKeys": size}
        if self.option("prefix"):
            request["Prefix"] = self.option("prefix")
        if self.option("request_payer"):
            request["RequestPayer"] = "requester"
        return request

    def _objects(self, answer: Mapping[str, Any]) -> Iterator[S3Object]:
        suffix, origin, payer = self.option("suffix"), self.origin, self.option("request_payer")
        endings = suffix if isinstance(suffix, str) else tuple(suffix)
        for entry in answer.get("Contents", ()):
            if entry["Key"].endswith(endings):
                yield S3Object(
                    key=entry["Key"],
                    size=entry["Size"],
                    etag=entry.get("ETag", "").strip('"'),
                    last_modified=entry["LastModified"].astimezone(UTC),
                    bucket=self.option("bucket"),
                    origin=origin,
                    request_payer=payer,
                )

    @override
    def lending(self) -> AbstractAsyncContextManager[None]:
        return _lending(self)


@dataclass(slots=True, eq=False)
class _Lent:
    """A client for the bodies of items, opened when the first of them wants it."""

    source: S3
    stack: AsyncExitStack
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    opened: Any = None

    async def client(self) -> Any:
        async with self.opening:
            if self.opened is None:
                source = self.source
                scope = connected("s3", source.origin, session=source.option("session"), config=source.option("config"))
                self.opened = await self.stack.enter_async_context(scope)
        return self.opened


_LENT: ContextVar[Mapping[Origin, _Lent]] = ContextVar("flowstone_s3_clients", default={})  # noqa: B039 - never changed


@asynccontextmanager
async def _lending(source: S3) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        token = _LENT.set({**_LENT.get(), source.origin: _Lent(source, stack)})
        try:
            yield
        finally:
            _LENT.reset(token)


def _is_suffix(value: object) -> bool:
    many = isinstance(value, list | tuple) and all(isinstance(each, str) for each in cast("list[object]", value))
    return isinstance(value, str) or many
