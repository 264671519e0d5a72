"""`@pipe.approval`, typed: the form decides what a decision holds."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from typing_extensions import Unpack

from flowstone_async.approvals import Ask
from flowstone_async.definition.approval import KNOWN, AskingOptions
from flowstone_async.definition.approval_handle import ApprovalAsset, PartitionedApprovalAsset
from flowstone_async.definition.collection import Collection
from flowstone_async.definition.decorating import check_known, plain
from flowstone_async.definition.partition import PartitionSet
from flowstone_async.definition.single import Single

P = ParamSpec("P")
F = TypeVar("F")
K = TypeVar("K")


class ApprovalDecorator(Protocol[F]):
    """What `@pipe.approval(...)` is."""

    def __call__(self, question: Callable[P, Coroutine[Any, Any, str | Ask | None]], /) -> ApprovalAsset[P, F]:
        """Make an asset of a question."""
        ...


class PartitionedApprovalDecorator(Protocol[F, K]):
    """What `@pipe.approval(partitions=...)` is."""

    def __call__(
        self, question: Callable[P, Coroutine[Any, Any, str | Ask | None]], /
    ) -> PartitionedApprovalAsset[P, F, K]:
        """Make an asset of a question."""
        ...


class ApprovalDecorators(Collection):
    """The decorator of assets that ask people."""

    @overload
    def approval(self, question: Callable[P, Coroutine[Any, Any, str | Ask | None]], /) -> ApprovalAsset[P, None]: ...
    @overload
    def approval(
        self,
        /,
        *,
        form: type[F],
        initial: Callable[..., F | Coroutine[Any, Any, F]] | None = None,
        partitions: Single | None = None,
        **options: Unpack[AskingOptions],
    ) -> ApprovalDecorator[F]: ...
    @overload
    def approval(
        self,
        /,
        *,
        form: type[F],
        initial: Callable[..., F | Coroutine[Any, Any, F]] | None = None,
        partitions: PartitionSet[K],
        **options: Unpack[AskingOptions],
    ) -> PartitionedApprovalDecorator[F, K]: ...
    @overload
    def approval(
        self, /, *, form: None = None, partitions: Single | None = None, **options: Unpack[AskingOptions]
    ) -> ApprovalDecorator[None]: ...
    @overload
    def approval(
        self, /, *, form: None = None, partitions: PartitionSet[K], **options: Unpack[AskingOptions]
    ) -> PartitionedApprovalDecorator[None, K]: ...
    def approval(
        self,
        question: Callable[..., Any] | None = None,
        /,
        *,
        form: Any = None,
        initial: Callable[..., Any] | None = None,
        partitions: PartitionSet[Any] | None = None,
        **options: Unpack[AskingOptions],
    ) -> Any:
        """Add an asset that asks people: a coroutine function that returns the question as text, `Ask(...)` or None.

        Its value is the `Decision`, which dependants take by name; None means that nobody need be asked. While a
        request is pending nothing is held, and nothing downstream runs.

        Args:
            question: The function; its name is the asset's name, its parameters are injected.
            form: Type of a form that whoever approves fills.
            initial: A function of dependencies that proposes it.
            partitions: The set of keys it has decisions for. Without one it follows the run's key.
            options: See `AskingOptions`.

        Example:
            >>> @pipe.approval(timeout="24h", roles=["release"], form=ReleaseForm)
            ... async def approve_production(staging: Deployment) -> str | None:
            ...     return f"Deploy {staging.sha} to production?"
        """
        check_known("approval", options, KNOWN)

        def decorate(function: Callable[..., Any]) -> Any:
            body = plain("approval", function)
            definition = self.define_approval(
                body, {**options, "form": form, "initial": initial}, partitions=partitions
            )
            follows = definition.partitions is None or not definition.partitions.dimensions
            if follows:
                return ApprovalAsset[..., Any](definition)
            return PartitionedApprovalAsset[..., Any, Any](definition)

        return decorate if question is None else decorate(question)
