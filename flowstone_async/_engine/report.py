"""What came of a run, asset by asset; reading it never raises for a failed asset."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeAlias, TypeVar, cast, overload

from flowstone_async.definition.handle import AssetRef
from flowstone_async.errors import FlowstoneError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
ReportState: TypeAlias = Literal["ok", "cached", "failed", "blocked", "skipped", "waiting", "cancelled"]


@dataclass(frozen=True, kw_only=True)  # without slots: see test_public_names
class AssetReport(Generic[T_co]):
    """What came of one asset and partition in a run.

    Attributes:
        state: `ok` (computed), `cached` (reused), `failed`, `blocked` (a required upstream failed), `skipped`,
            `waiting`, `cancelled`.
        value: The value, for `ok` and `cached`; else None.
        attempts: Calls of the body.
        earlier: What the attempts before the last one failed with, oldest first.
    """

    asset: str
    partition: Any
    state: ReportState
    seconds: float = 0.0
    attempts: int = 0
    error: FlowstoneError | None = None
    earlier: tuple[FlowstoneError, ...] = ()
    reason: str | None = None
    value: T_co = cast("Any", None)  # noqa: RUF009 - None stands for every type of value

    @property
    def status(self) -> str:
        """The asset's status after the run: a blocked one is `failed`, with `DependencyFailed`."""
        return {"ok": "completed", "cached": "completed", "blocked": "failed"}.get(self.state, self.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What came of a run.

    Attributes:
        ok: Whether every target has a value, or was skipped.
        value: The target's value, or a tuple for several; None where there is none.
        failed: Names of assets that failed themselves, in order.
        tolerated: Those of them whose failure the targets tolerate.
        error: The first failure.
    """

    run_id: str
    ok: bool
    state: str
    seconds: float
    value: Any = None
    failed: tuple[str, ...] = ()
    tolerated: tuple[str, ...] = ()
    error: FlowstoneError | None = None
    entries: tuple[AssetReport[Any], ...] = ()
    resolve: Callable[[AssetRef[Any] | str], str] = field(default=str, repr=False, compare=False)

    @overload
    def __getitem__(self, asset: AssetRef[T]) -> AssetReport[T]: ...
    @overload
    def __getitem__(self, asset: str) -> AssetReport[Any]: ...
    def __getitem__(self, asset: AssetRef[Any] | str) -> AssetReport[Any]:
        """Return what came of an asset, by handle or name; its target's partition first.

        Raises:
            KeyError: The run did not touch it.
        """
        name = self.resolve(asset)
        found = [entry for entry in self.entries if entry.asset == name]
        if not found:
            raise KeyError(f"the run did not touch asset {name!r}")
        return found[-1]

    def __iter__(self) -> Iterator[AssetReport[Any]]:
        return iter(self.entries)

    def by_state(self) -> Mapping[str, int]:
        """Return the number of entries in each state."""
        counts: dict[str, int] = {}
        for entry in self.entries:
            counts[entry.state] = counts.get(entry.state, 0) + 1
        return counts
