"""Checking what a run is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from flowstone_async._engine.catalog import Catalog
from flowstone_async._engine.request import OnWait, Request, is_uuid
from flowstone_async._engine.services import Settings
from flowstone_async._engine.targets import Target, find
from flowstone_async.config import seconds, word
from flowstone_async.definition.keys import encode_key
from flowstone_async.definition.policy import Duration
from flowstone_async.errors import ConfigError
from flowstone_async.planning.verdicts import Force

Timeout = Duration | Literal[False] | None


def make_request(
    catalogs: Mapping[str, Catalog],
    settings: Settings,
    targets: Sequence[Target],
    *,
    partition: object = None,
    params: object = None,
    force: Force = False,
    with_deps: bool = True,
    io: object = None,
    timeout: Timeout = None,
    concurrency: int | None = None,
    run_id: str | None = None,
    submitted: bool = False,
    on_wait: OnWait = "raise",
    parent: str | None = None,
) -> Request:
    """Check the options of a run.

    Raises:
        ConfigError: An option is wrong.
        AssetNotFound: A target does not exist.
    """
    if not targets:
        raise TypeError("run() needs at least one asset")
    found = [find(catalogs, each) for each in targets]
    catalog = found[0][0]
    if any(each is not catalog for each, _ in found):
        raise ConfigError("the targets belong to several pipelines", hint="Run them one pipeline at a time.")
    if force not in (False, True, "all"):
        raise ConfigError(f"force={force!r}", hint='Allowed are False, True, "all".')
    if run_id is not None and not is_uuid(run_id):
        raise ConfigError(
            f"run_id={run_id!r} is not a UUID", hint="Leave it out, or give str(uuid.uuid4()), in lower case."
        )
    if not isinstance(with_deps, bool):
        raise ConfigError(f"with_deps={with_deps!r}", hint="Allowed are True and False.")
    limit = settings.concurrency if concurrency is None else concurrency
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigError(f"concurrency={concurrency!r}", hint="Give a whole number of 1 or more.")
    parsed = catalog.params.parse(params)
    secrets = catalog.params.secrets(parsed)
    manager = None if io is None else catalog.managers.find(io)
    return Request(
        pipeline=catalog.graph.pipeline,
        targets=tuple(name for _, name in found),
        partition=partition,
        encoded=encode_key(cast("Any", partition)),
        params=parsed,
        params_json=catalog.params.dump(parsed),
        secrets=secrets,
        force=force,
        with_deps=with_deps,
        io=manager,
        io_name="" if manager is None else io if isinstance(io, str) else manager.name,
        continuable=(io is None or isinstance(io, str)) and not secrets,
        timeout=_limit(timeout, settings, submitted=submitted),
        concurrency=limit,
        run_id=run_id,
        submitted=submitted,
        on_wait=cast("OnWait", word(on_wait, ("raise", "wait"), what="on_wait")),
        parent=parent,
    )


def _limit(timeout: Timeout, settings: Settings, *, submitted: bool) -> float | None:
    if timeout is False:
        return None
    if timeout is None:
        return None if submitted else settings.default_timeout
    return seconds(timeout, what="timeout")
