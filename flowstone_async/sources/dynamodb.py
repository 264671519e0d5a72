"""Items of a DynamoDB table as items."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar, cast

from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.retry import Duration, Retry
from flowstone_async.sources.attributes import restored_key, stored_key, unpacked
from flowstone_async.sources.aws import Amazon, text_or_none
from flowstone_async.sources.expressions import Expressions
from flowstone_async.sources.options import Check, Computed
from flowstone_async.sources.rows import Rows, model_problem
from flowstone_async.sources.source import READ_RETRY, READ_TIMEOUT, Page

T_co = TypeVar("T_co", covariant=True)

_PAGE = 1000
_KEY_PARTS = 2
_DENIED = "AccessDeniedException"


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in cast("Mapping[object, object]", value))


def _mapping_or_none(value: object) -> str | None:
    return None if value is None or _is_mapping(value) else "give a mapping with text as keys"


def _where(value: object) -> str | None:
    fits = value is None or (_is_mapping(value) and 0 < len(cast("Mapping[str, object]", value)) <= _KEY_PARTS)
    return None if fits else "give the value of the partition key, and of the sort key if it is wanted"


def _projection(value: object) -> str | None:
    many = isinstance(value, list | tuple) and all(isinstance(each, str) for each in cast("list[object]", value))
    return None if value is None or (value and (isinstance(value, str) or many)) else "give names of attributes"


class DynamoDB(Amazon[T_co]):
    """Items of a table or index, each as a `model`: those with a key, or all of them by a scan.

    Names of attributes may be written as they are in every option; all are sent as aliases, so that reserved words need
    no care. Options but `model` may be functions of dependencies, by name, at any depth. Needs the extra `aws`.

    Args:
        model: A pydantic model, dataclass or TypedDict, or `dict` for items as they are (numbers as int, or Decimal).
            An item that does not fit is a failed item.
        table: Name of the table.
        index: Name of a secondary index.
        where: Attributes of the key and their values: the partition key, and the sort key if it is wanted.
        key_condition: A key condition expression, instead of `where`.
        expression_values: What `:values` in the expressions stand for.
        expression_names: What `#names` in the expressions stand for.
        filter: A filter expression; the service reads, and charges, what it leaves out.
        projection: Paths of attributes to read, as a list or between commas; by default all.
        consistent: Whether to read what was written last; not with a global index.
        region: Region; by default that of the environment.
        endpoint_url: Address of a service that is not Amazon's.
        profile: Profile of the AWS configuration files.
        session: An aiobotocore session, for credentials of your own.
        config: A `botocore.config.Config`.
        max_items: The most items, or False for all.
        read_retry: How often reading is tried again after an error; False for never.
        read_timeout: How long a page may take; False for as long as it likes.

    Example:
        >>> sources.DynamoDB(Document, "documents", index="status-index", where={"status": "pending"})
    """

    checks: ClassVar[Mapping[str, Check]] = {
        **Amazon.checks,
        "table": lambda value: None if isinstance(value, str) and value else "give the name of a table",
        "index": text_or_none,
        "where": _where,
        "key_condition": text_or_none,
        "expression_values": _mapping_or_none,
        "expression_names": _mapping_or_none,
        "filter": text_or_none,
        "projection": _projection,
        "consistent": lambda value: None if isinstance(value, bool) else "allowed are True, False",
    }

    def __init__(
        self,
        model: type[T_co],
        table: Computed[str],
        *,
        index: Computed[str | None] = None,
        where: Computed[Mapping[str, object] | None] = None,
        key_condition: Computed[str | None] = None,
        expression_values: Computed[Mapping[str, object] | None] = None,
        expression_names: Computed[Mapping[str, Any] | None] = None,
        filter: Computed[str | None] = None,  # noqa: A002 - what the service calls it
        projection: Computed[str | Sequence[Computed[str]] | None] = None,
        consistent: Computed[bool] = False,
        region: Computed[str | None] = None,
        endpoint_url: Computed[str | None] = None,
        profile: Computed[str | None] = None,
        session: object = None,
        config: object = None,
        max_items: Computed[int | Literal[False]] = False,
        read_retry: Retry | Literal[False] = READ_RETRY,
        read_timeout: Duration | Literal[False] = READ_TIMEOUT,
    ) -> None:
        self._model = model
        options: dict[str, object] = {
            "table": table,
            "index": index,
            "where": where,
            "key_condition": key_condition,
            "expression_values": expression_values,
            "expression_names": expression_names,
            "filter": filter,
            "projection": projection,
            "consistent": consistent,
            "region": region,
            "endpoint_url": endpoint_url,
            "profile": profile,
            "session": session,
            "config": config,
            "max_items": max_items,
        }
        super().__init__(options, read_retry=read_retry, read_timeout=read_timeout)

    @property
    @override
    def label(self) -> str:
        table, index = self._options["table"], self._options["index"]
        inner = f"/{index}" if isinstance(index, str) else ""
        return f"DynamoDB({table if isinstance(table, str) else '...'}{inner})"

    @property
    @override
    def item_type(self) -> Any:
        return self._model

    @override
    def problems(self) -> Iterator[str]:
        wrong = model_problem(self._model)
        if wrong is not None:
            yield wrong
        if self._options["where"] is not None and self._options["key_condition"] is not None:
            yield "where= and key_condition= say the same: give one of the two"
        found = list(super().problems())
        yield from found
        if not found and not self.functions():
            try:
                self.request()
            except ConfigError as error:
                yield error.message

    def request(self) -> dict[str, Any]:
        """Return what the service is asked, but for the page.

        Raises:
            ConfigError: An expression uses what is not given, or a value is none of DynamoDB's.
        """
        wanted = {name: self.option(name) for name in self.checks}
        made: dict[str, Any] = {"TableName": wanted["table"]}
        if wanted["index"] is not None:
            made["IndexName"] = wanted["index"]
        if wanted["consistent"]:
            made["ConsistentRead"] = True
        expressions = Expressions(wanted["expression_names"] or {}, wanted["expression_values"] or {})
        if wanted["where"] is not None:
            made["KeyConditionExpression"] = expressions.equal(wanted["where"])
        elif wanted["key_condition"] is not None:
            made["KeyConditionExpression"] = expressions.condition(wanted["key_condition"], what="key_condition")
        if wanted["filter"] is not None:
            made["FilterExpression"] = expressions.condition(wanted["filter"], what="filter")
        if wanted["projection"] is not None:
            made["ProjectionExpression"] = expressions.projection(wanted["projection"])
        return {**made, **expressions.aliases()}

    @override
    def read(self, cursor: Any) -> AsyncIterator[Page[T_co]]:
        return self.read_sized(cursor, _PAGE)

    @override
    async def read_sized(self, cursor: Any, page_size: int) -> AsyncIterator[Page[T_co]]:
        request = {**self.request(), "Limit": page_size}
        if cursor is not None:
            request["ExclusiveStartKey"] = restored_key(cursor)
        rows = Rows(self._model)
        async with self.client("dynamodb") as client:
            if self.option("consistent") and self.option("index"):
                await self._refuse_global_index(client)
            ask = client.query if "KeyConditionExpression" in request else client.scan
            while True:
                answer = await ask(**request)
                items = await rows.items(
                    {name: unpacked(value) for name, value in item.items()} for item in answer["Items"]
                )
                key = answer.get("LastEvaluatedKey")
                # A page that the filter emptied says nothing about what comes behind it; only a missing key does.
                yield Page(cast("list[T_co]", items), stored_key(key) if key else None, last=not key)
                if not key:
                    return
                request["ExclusiveStartKey"] = key

    async def _refuse_global_index(self, client: Any) -> None:
        """Refuse what the service cannot do; it says so itself where its description may not be read."""
        index, table = self.option("index"), self.option("table")
        try:
            described = await client.describe_table(TableName=table)
        except client.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == _DENIED:
                return
            raise
        known = described["Table"].get("GlobalSecondaryIndexes", ())
        if any(each["IndexName"] == index for each in known):
            raise ConfigError(
                f"{self.label}: consistent=True, but {index!r} is a global index, which is always a little behind",
                hint="Leave consistent= out, or read the table or a local index.",
            )
