"""Handles of assets that ask people: their value is a `Decision`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Generic, ParamSpec, TypeVar, cast

from flowstone_async.approvals import Ask, Decision
from flowstone_async.definition.annotations import capture
from flowstone_async.definition.approval import ApprovalKind, handler
from flowstone_async.definition.asset import AssetDefinition
from flowstone_async.definition.call import call_body
from flowstone_async.definition.handle import OpenRef, PartitionedRef
from flowstone_async.definition.location import caller
from flowstone_async.errors import ConfigError

P = ParamSpec("P")
F = TypeVar("F")
K = TypeVar("K")
H = TypeVar("H", bound=Callable[..., object])


class _Asking(Generic[P]):
    """What both kinds of handles can do."""

    definition: AssetDefinition

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, str | Ask | None]:
        """Call the question alone: nobody is asked."""
        kind = cast("ApprovalKind", self.definition.kind)
        return call_body(replace(self.definition, body=kind.question), args, kwargs)

    def on_approve(self, function: H, /) -> H:
        """Let a function compute the asset's value once somebody has said yes, or nobody had to.

        It takes the `Decision` (the parameter that is annotated or called so, else the first one) and dependencies.

        Raises:
            ConfigError: There is one already, or it is no function.

        Example:
            >>> @approve_release.on_approve
            ... async def released(decision: Decision[ReleaseForm], build: Build) -> Release: ...
        """
        self._register("approve", function)
        return function

    def on_reject(self, function: H, /) -> H:
        """Let a function give a value although somebody has said no, or nobody decided in time: the run goes on.

        It takes what `on_approve` takes. Without one the asset fails with `Rejected`.

        Raises:
            ConfigError: There is one already, or it is no function.
        """
        self._register("reject", function)
        return function

    def _register(self, part: str, function: Any) -> None:
        handlers = cast("ApprovalKind", self.definition.kind).handlers
        if not callable(function):
            raise ConfigError(f"on_{part}() takes a function, not {function!r}")
        if getattr(handlers, part) is not None and not self.definition.location.interactive:
            raise ConfigError(f"asset {self.definition.name!r} has two functions for on_{part}", hint="Take one away.")
        setattr(handlers, part, handler(function, capture(caller())))
        handlers.changed()


class ApprovalAsset(_Asking[P], OpenRef[Decision[F]], Generic[P, F]):
    """An asset that asks people; its value is what they decided."""


class PartitionedApprovalAsset(_Asking[P], PartitionedRef[Decision[F], K], Generic[P, F, K]):
    """A partitioned asset that asks people."""
