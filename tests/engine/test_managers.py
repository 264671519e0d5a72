"""I/O managers of the users' own, which may raise anything (STORE-01, STORE-11, ERR-04)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from flowstone_async import ExecutionError, Pipeline, StorageError
from flowstone_async.io import Memory, Stored, ValueRef
from tests.support.engines import OpenVerbs


class _Odd(Memory):
    """Raises what it is told, in the verb it is told."""

    def __init__(self, **errors: Exception) -> None:
        super().__init__(name="odd")
        self.errors = errors

    def _check(self, verb: str) -> None:
        if verb in self.errors:
            raise self.errors[verb]

    async def store(self, ref: ValueRef, value: Any) -> Stored:
        self._check("store")
        return await super().store(ref, value)

    async def load(self, ref: ValueRef, want: object) -> Any:
        self._check("load")
        return await super().load(ref, want)

    async def delete(self, ref: ValueRef) -> None:
        self._check("delete")
        await super().delete(ref)

    async def publish(self, ref: ValueRef) -> None:
        self._check("publish")


def _pipe(manager: _Odd) -> Pipeline:
    pipe = Pipeline("odd")

    @pipe.asset(io=manager)
    async def raw() -> int:
        return 1

    @pipe.asset(io=manager)
    async def streamed() -> AsyncIterator[int]:
        yield 1
        if "stream" in manager.errors:
            raise manager.errors["stream"]

    return pipe


@pytest.mark.parametrize("asset", ["raw", "streamed"])
@pytest.mark.parametrize(("error", "retryable"), [(KeyError("bucket"), False), (ConnectionError("gone"), True)])
async def test_what_a_manager_raises_when_it_stores_fails_the_asset(
    open_verbs: OpenVerbs, asset: str, error: Exception, retryable: bool
) -> None:
    """STORE-11: with `StorageError`, whatever it was, naming manager and asset; the original is its cause."""
    verbs = await open_verbs(_pipe(_Odd(store=error)))
    with pytest.raises(StorageError, match=f"odd could not store odd.{asset}: {type(error).__name__}") as caught:
        await verbs.run(asset)
    assert (caught.value.asset, caught.value.retryable, caught.value.__cause__) == (asset, retryable, error)
    assert (await verbs.status(asset)).state == "failed"


@pytest.mark.parametrize("error", [ConnectionError("reset"), KeyError("x"), StorageError("its own")])
async def test_what_a_stream_raises_is_the_bodys(open_verbs: OpenVerbs, error: Exception) -> None:
    """ERR-04: also where it looks like trouble with the store; a library error passes through unchanged."""
    verbs = await open_verbs(_pipe(_Odd(stream=error)))
    with pytest.raises((ExecutionError, StorageError)) as caught:
        await verbs.run("streamed")
    if isinstance(error, StorageError):
        assert caught.value is error or caught.value.message == error.message
    else:
        assert isinstance(caught.value, ExecutionError)
        assert caught.value.__cause__ is error


async def test_what_a_manager_raises_when_it_loads_is_a_storage_error(open_verbs: OpenVerbs) -> None:
    """STORE-10, RUN-18: from `run` and `get`; a report has it as the asset's error."""
    manager = _Odd()
    verbs = await open_verbs(_pipe(manager))
    await verbs.run("raw")
    manager.errors["load"] = KeyError("bucket")
    for verb in (verbs.run, verbs.get):
        with pytest.raises(StorageError, match=r"odd could not load odd.raw: KeyError: 'bucket'"):
            await verb("raw")
    report = await verbs.report("raw")
    assert isinstance(report["raw"].error, StorageError)


@pytest.mark.parametrize("verb", ["delete", "publish"])
async def test_a_manager_that_cannot_tidy_up_changes_no_outcome(
    open_verbs: OpenVerbs, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    """STORE-08, STORE-10: the value is committed, and a warning tells."""
    manager = _Odd()
    verbs = await open_verbs(_pipe(manager))
    assert await verbs.run("raw") == 1
    manager.errors[verb] = KeyError("bucket")
    with caplog.at_level(logging.WARNING):
        assert await verbs.run("raw", force=True) == 1
    if verb == "publish":
        assert "odd.raw is committed, but odd could not publish odd.raw: KeyError" in caplog.text
