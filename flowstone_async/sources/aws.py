"""What the sources of AWS share: where a service answers, and clients for it, made without blocking the event loop."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar, cast

from anyio import to_thread
from typing_extensions import override

from flowstone_async.errors import ConfigError
from flowstone_async.retry import Duration, Retry
from flowstone_async.sources.options import Check, Configured

T_co = TypeVar("T_co", covariant=True)

DRIVER = "aiobotocore"
_CONNECTIONS = 100
"""Requests that one client has under way at once; botocore's own 10 are fewer than the items that run at once."""
_WRONG = ("ValidationException", "ResourceNotFoundException", "NoSuchBucket", "InvalidBucketName")
"""Answers that blame the options."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a service answers. It holds no credentials: those come from the environment, a profile, or a session.

    Attributes:
        region: Region, or None for that of the environment.
        endpoint_url: Address of a service that is not Amazon's, or None.
        profile: Profile of the AWS configuration files, or None.
    """

    region: str | None = None
    endpoint_url: str | None = None
    profile: str | None = None


def text_or_none(value: object) -> str | None:
    """Check an option that is text."""
    return None if value is None or (isinstance(value, str) and value) else "give text, or leave it out"


class Amazon(Configured[T_co]):
    """A source that a service of AWS answers.

    Args:
        options: The options of the kind of source, and of `Origin`; `session`, an aiobotocore session, and `config`, a
            botocore configuration.
    """

    live: ClassVar[frozenset[str]] = frozenset({"session", "config"})
    checks: ClassVar[Mapping[str, Check]] = {
        "region": text_or_none,
        "endpoint_url": text_or_none,
        "profile": text_or_none,
        "session": lambda value: (
            None if value is None or hasattr(value, "create_client") else "give an aiobotocore session"
        ),
        "config": lambda value: None if value is None or hasattr(value, "merge") else "give a botocore.config.Config",
    }

    def __init__(
        self,
        options: Mapping[str, object],
        *,
        read_retry: Retry | Literal[False],
        read_timeout: Duration | Literal[False],
    ) -> None:
        super().__init__(options, read_retry=read_retry, read_timeout=read_timeout)

    @override
    def problems(self) -> Iterator[str]:
        if importlib.util.find_spec(DRIVER) is None:
            yield f'{type(self).__name__} needs {DRIVER}, which is not installed: pip install "flowstone_async[aws]"'
        if self._options["session"] is not None and self._options["profile"] is not None:
            yield "profile= says nothing beside session=, which has one: give one of the two"
        yield from super().problems()

    @property
    def origin(self) -> Origin:
        """Where the service answers."""
        return Origin(
            region=self.option("region"), endpoint_url=self.option("endpoint_url"), profile=self.option("profile")
        )

    @asynccontextmanager
    async def client(self, service: str) -> AsyncGenerator[Any]:
        """Open a client of a service.

        Raises:
            ConfigError: The service says that an option is wrong.
        """
        async with connected(
            service, self.origin, session=self.option("session"), config=self.option("config")
        ) as client:
            try:
                yield client
            except Exception as error:
                if _code(error) in _WRONG:
                    raise ConfigError(f"{self.label}: {error}") from error
                raise


@asynccontextmanager
async def connected(service: str, origin: Origin, *, session: Any = None, config: Any = None) -> AsyncGenerator[Any]:
    """Open a client of a service.

    Args:
        service: `"s3"`, `"dynamodb"`.
        origin: Where it answers.
        session: The caller's aiobotocore session; by default a new one.
        config: The caller's botocore configuration, which adds to ours.
    """
    # The driver takes a second to import and to read its models of the service.
    ready, ours = await to_thread.run_sync(_prepared, service, origin, session, abandon_on_cancel=True)
    settings = ours if config is None else ours.merge(config)
    async with ready.create_client(
        service, region_name=origin.region, endpoint_url=origin.endpoint_url, config=settings
    ) as client:
        yield client


def _prepared(service: str, origin: Origin, session: Any) -> tuple[Any, Any]:
    """Return a session that has read what a client of the service needs, and how its clients are to be."""
    # By name, for the type checker of a checkout without the extra.
    made: Any = session
    if session is None:
        made = importlib.import_module(f"{DRIVER}.session").AioSession(profile=origin.profile)
        made.register_component("data_loader", _models(made.get_config_variable("data_path")))
    loader = made.get_component("data_loader")
    for data in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        loader.load_data(data)
    for kind in ("service-2", "endpoint-rule-set-1"):
        loader.load_service_model(service, kind)
    return made, importlib.import_module(f"{DRIVER}.config").AioConfig(max_pool_connections=_CONNECTIONS)


@functools.cache
def _models(path: str | None) -> Any:
    """Return what reads the driver's files and remembers them; they are megabytes, and never change."""
    return importlib.import_module("botocore.loaders").create_loader(path)


def _code(error: Exception) -> str:
    """Return the code of what a service answered, or the empty string."""
    answer = getattr(error, "response", None)
    facts = cast("dict[str, Any]", answer) if isinstance(answer, dict) else {}
    return str(facts.get("Error", {}).get("Code", ""))
