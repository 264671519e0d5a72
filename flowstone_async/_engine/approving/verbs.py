"""The verbs for approvals that a pipeline and an engine share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, overload

from flowstone_async._engine.approving.deciding import Answer, answer, decide
from flowstone_async._engine.approving.listing import Approvals
from flowstone_async._engine.gates.sender import Sender
from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target
from flowstone_async.approvals import Decision
from flowstone_async.definition.handle import AssetRef

F = TypeVar("F")


class ApprovalVerbs(ABC):
    """Approving and rejecting."""

    @abstractmethod
    def _session(self) -> AbstractAsyncContextManager[Session]:
        """Return the session, open for the length of a call."""

    async def _decided(self, session: Session, run_id: str) -> None:  # noqa: B027 - most need do nothing
        """Go on with a run that was woken, where nobody else does."""

    @overload
    async def approve(
        self,
        target: AssetRef[Decision[F]],
        *,
        by: str,
        form: F | None = None,
        reason: str | None = None,
        partition: object = None,
    ) -> Decision[F]: ...
    @overload
    async def approve(
        self, target: Target, *, by: str, form: object = None, reason: str | None = None, partition: object = None
    ) -> Decision[Any]: ...
    async def approve(
        self,
        target: Any,
        *,
        by: str,
        form: object = None,
        reason: str | None = None,
        partition: object = None,
    ) -> Decision[Any]:
        """Say yes to a request, and let what waits for it go on.

        The first decision stands: the same again by the same person returns it, any other is refused.

        Args:
            target: A handle or name of what asks, or the id of a request.
            by: Who says so.
            form: The form as it was filled, or the plain data of one; without it the one that was proposed.
            reason: Why.
            partition: Key of the asset that asks.

        Raises:
            NothingPending: The asset asks nobody for anything.
            ConfigError: Several requests match, and are listed; or another argument is wrong.
            AlreadyDecided: Another decision came first.
            GateClosed: The request has expired, or was cancelled; `details["state"]` says which.
            GateNotFound: There is no request of this id.
            PayloadInvalid: The form does not fit; `details["fields"]` says where. The request is as pending as before.
            StoreUnavailable: Nobody knows whether it was taken: say it again.

        Example:
            >>> await engine.approve(approve_production, by="alice@example.com", form=ReleaseForm(note="ok"))
        """
        return await self._decide(target, partition, answer(approved=True, by=by, reason=reason, form=form))

    async def reject(
        self, target: Target, *, by: str, reason: str | None = None, partition: object = None
    ) -> Decision[Any]:
        """Say no to a request: what asks fails with `Rejected`, and is not tried again.

        Args:
            target: A handle or name of what asks, or the id of a request.
            by: Who says so.
            reason: Why.
            partition: Key of the asset that asks.

        Raises:
            NothingPending: The asset asks nobody for anything.
            ConfigError: Several requests match, and are listed; or another argument is wrong.
            AlreadyDecided: Another decision came first.
            GateClosed: The request has expired, or was cancelled.
            GateNotFound: There is no request of this id.
            StoreUnavailable: Nobody knows whether it was taken: say it again.

        Example:
            >>> await engine.reject(approve_production, by="bob@example.com", reason="not on a Friday")
        """
        return await self._decide(target, partition, answer(approved=False, by=by, reason=reason))

    @property
    def approvals(self) -> Approvals:
        """The requests for approval, to look at."""
        return Approvals(self._session)

    async def _decide(self, target: Target, partition: object, said: Answer) -> Decision[Any]:
        async with self._session() as session:
            decision, run_id = await decide(session, target, partition, said, Sender(actor=said.by))
            await self._decided(session, run_id)
        return decision
