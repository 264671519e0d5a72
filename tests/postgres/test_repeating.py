"""Doing things again while the server is away: until they are done, the lease is lost, or patience ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.postgres import repeating
from flowstone_async.store.postgres.repeating import Repeating


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeating, "_PAUSE", 0)


class Work:
    """Fails so often, then succeeds."""

    def __init__(self, failures: int, error: Callable[[], Exception] = lambda: StoreUnavailable("away")) -> None:
        self.left, self.calls, self._error = failures, 0, error

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.left:
            raise self._error()
        return self.calls


async def test_it_is_done_again_until_it_is_done() -> None:
    assert await Repeating(lambda: True, 60.0)(Work(3)) == 4


@pytest.mark.parametrize(("owns", "patience"), [(False, 60.0), (True, -1.0)])
async def test_it_is_given_up(owns: bool, patience: float) -> None:
    work = Work(3)
    with pytest.raises(StoreUnavailable):
        await Repeating(lambda: owns, patience)(work)
    assert work.calls == 1


async def test_only_a_server_that_is_away_is_waited_for() -> None:
    work = Work(3, lambda: ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        await Repeating(lambda: True, 60.0)(work)
    assert work.calls == 1
