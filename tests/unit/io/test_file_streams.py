"""Streams in files."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import pytest

from flowstone_async.errors import StorageError
from flowstone_async.io import chunks
from flowstone_async.io.files import Files
from tests.unit.io.folders import everything, failing, kept
from tests.unit.io.refs import numbers, ref_of


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_stream_is_shown_as_one_array(tmp_path: Path) -> None:
    files = Files(tmp_path)

    await kept(files, numbers(2500), ref_of(int, partition="many", stream=True))
    await kept(files, numbers(0), ref_of(int, partition="none", stream=True))

    assert json.loads((tmp_path / "sales/orders/many.json").read_bytes()) == list(range(2500))
    assert json.loads((tmp_path / "sales/orders/none.json").read_bytes()) == []


async def test_a_stream_is_not_seen_before_it_is_whole(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ref = ref_of(int, stream=True)
    seen: list[bool] = []

    async def watching() -> AsyncGenerator[int]:
        async for no in numbers(2000):
            yield no
        seen.append((tmp_path / f".values/sales/orders/{ref.materialization}").exists())

    await files.store(ref, watching())

    assert seen == [False]


@pytest.mark.parametrize("cut", [1, 3, 100, 7000])
async def test_a_stream_cut_short_is_found_out(tmp_path: Path, cut: int) -> None:
    files = Files(tmp_path)
    ref = await kept(files, numbers(2500), ref_of(int, stream=True))
    path = tmp_path / ref.location
    path.write_bytes(path.read_bytes()[:-cut])

    with pytest.raises(StorageError, match="chunk") as caught:
        [item async for item in await files.load(ref, None)]

    assert str(path) in caught.value.message
    assert "force=True" in str(caught.value)


async def test_a_stream_cut_between_two_chunks_is_found_out(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ref = await kept(files, numbers(2000), ref_of(int, stream=True))
    path = tmp_path / ref.location
    data = path.read_bytes()
    path.write_bytes(data[: 4 + int.from_bytes(data[:4], "big")])

    with pytest.raises(StorageError, match="missing"):
        [item async for item in await files.load(ref, None)]


async def test_no_file_stays_open_when_a_reader_stops(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ref = await kept(files, numbers(5000), ref_of(int, stream=True))
    before = open_files()

    async with aclosing(aiter(await files.load(ref, None))) as items:
        await anext(items)
        assert open_files() == before


async def test_a_full_disk_ends_a_stream_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_PAUSES", (0, 0))
    files = Files(tmp_path)
    ended: list[bool] = []

    async def items() -> AsyncGenerator[int]:
        try:
            async for no in numbers(1500):
                yield no
            monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
            yield 1
        finally:
            ended.append(True)

    with pytest.raises(StorageError, match="No space left") as caught:
        await files.store(ref_of(int, stream=True), items())

    assert caught.value.retryable
    assert ended == [True]
    assert everything(tmp_path) == []


async def test_a_disk_that_has_space_again_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_PAUSES", (0, 0))
    files, real = Files(tmp_path), os.write
    fails = iter([False, True, True, False])

    def unsteady(descriptor: int, data: bytes) -> int:
        if next(fails, False):
            real(descriptor, bytes(data[:10]))
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", unsteady)
        ref = await kept(files, numbers(3000), ref_of(int, stream=True))

    assert [item async for item in await files.load(ref, None)] == list(range(3000))
