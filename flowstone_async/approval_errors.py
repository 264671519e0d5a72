"""Errors of approvals: what a person said, and what cannot be decided (any more)."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from flowstone_async.errors import FlowstoneError, TimedOut


class Rejected(FlowstoneError):
    """A person said no. It is never tried again: the answer stands."""

    code: ClassVar[str] = "REJECTED"

    @property
    def by(self) -> str | None:
        """Who said so."""
        found = self.details.get("by")
        return found if isinstance(found, str) else None

    @property
    def reason(self) -> str | None:
        """Why, if that was said."""
        found = self.details.get("reason")
        return found if isinstance(found, str) else None

    @property
    def at(self) -> datetime | None:
        """When, aware."""
        found = self.details.get("at")
        return datetime.fromisoformat(found) if isinstance(found, str) else None


class ApprovalTimedOut(Rejected, TimedOut):
    """Nobody decided in time, which counts as a no."""

    code: ClassVar[str] = "APPROVAL_TIMED_OUT"
    default_retryable: ClassVar[bool] = False


class NothingPending(FlowstoneError):
    """No request for approval was found to decide."""

    code: ClassVar[str] = "NOTHING_PENDING"


class AlreadyDecided(FlowstoneError):
    """Somebody else, or the same person otherwise, decided first; `details["decision"]` has that one, which stands."""

    code: ClassVar[str] = "ALREADY_DECIDED"


class NotAllowed(FlowstoneError):
    """The person has none of the roles that may decide."""

    code: ClassVar[str] = "NOT_ALLOWED"
