"""Files that no record names go after a day; nothing else does (STORE-07)."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Collection
from pathlib import Path
from threading import get_ident

import pytest

from flowstone_async.errors import StorageError
from flowstone_async.io import drafts, sweeping
from flowstone_async.io.base import Swept, ValueRef
from flowstone_async.io.drafts import Draft
from flowstone_async.io.files import Files
from flowstone_async.types import new_id
from tests.unit.io.folders import everything, failing, kept
from tests.unit.io.refs import numbers, ref_of

DAY = 86_400.0
MINE = "mine"


def owned(root: Path, store: str = MINE) -> Files:
    return Files(root).owned(lambda: store)


def age(*paths: Path, days: float = 2) -> None:
    for path in paths:
        instant = path.stat().st_mtime - days * DAY
        os.utime(path, (instant, instant))


async def stray(files: Files, root: Path, *, days: float = 2, ref: ValueRef | None = None) -> Path:
    """Store a value as a process does that dies before the commit."""
    stored = await files.store(ref or ref_of(int), 7)
    age(root / stored.location, days=days)
    return root / stored.location


class Records:
    """The ids that are on record, and what was asked for."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.asked: list[list[str]] = []

    async def __call__(self, materializations: Collection[str]) -> Collection[str]:
        self.asked.append(list(materializations))
        return self.known & set(materializations)


async def test_a_value_that_no_record_names_goes_after_a_day(tmp_path: Path) -> None:
    files = owned(tmp_path)
    old = await stray(files, tmp_path, days=1.01)
    young = await stray(files, tmp_path, days=0.99)
    size = old.stat().st_size

    assert await files.sweep(Records(), older_than=DAY) == Swept(1, size)

    assert (old.exists(), young.exists()) == (False, True)


async def test_a_value_on_record_stays_with_what_it_shows(tmp_path: Path) -> None:
    files = owned(tmp_path)
    ref = await kept(files, 1, ref_of(int))
    streamed = await kept(files, numbers(3), ref_of(int, asset="streamed", stream=True))
    before = everything(tmp_path)
    age(*(tmp_path / path for path in before), days=100)

    assert await files.sweep(Records(ref.materialization, streamed.materialization), older_than=DAY) == Swept(0, 0)

    assert sorted({*everything(tmp_path)} - {f".values/.{MINE}/.swept"}) == before
    assert await files.load(ref, None) == 1


async def test_a_dry_sweep_only_counts(tmp_path: Path) -> None:
    files = owned(tmp_path)
    await stray(files, tmp_path)
    before = everything(tmp_path)

    swept = await files.sweep(Records(), older_than=DAY, dry=True)

    assert (swept.number, swept.size > 0) == (1, True)
    assert everything(tmp_path) == before


async def test_what_we_did_not_write_stays(tmp_path: Path) -> None:
    files = owned(tmp_path)
    await kept(files, 1, ref_of(int))
    folder = tmp_path / f".values/.{MINE}/sales/orders"
    foreign = [
        tmp_path / new_id(),  # beside the copies that people see
        tmp_path / ".values" / "sales" / new_id(),  # written without a store
        folder / "notes.txt",
        folder / f"{new_id()}.json",
        folder / new_id().upper(),
        folder / ".draft",
    ]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"theirs")
    age(*foreign)
    aim = tmp_path / "aim"
    aim.mkdir()
    for link, target in ((folder / new_id(), foreign[0]), (folder / "linked", aim)):
        link.symlink_to(target)
    hidden = aim / new_id()
    hidden.write_bytes(b"")
    age(hidden)
    copies = [tmp_path / "sales/orders.json"]
    age(*copies)

    await files.sweep(Records(), older_than=DAY)

    assert all(path.exists() for path in (*foreign, *copies, hidden, folder / "linked"))


async def test_each_store_sweeps_its_own_values(tmp_path: Path) -> None:
    mine, theirs, nobodys = owned(tmp_path), owned(tmp_path, "theirs"), Files(tmp_path)
    paths = [await stray(files, tmp_path) for files in (mine, theirs, nobodys)]

    await mine.sweep(Records(), older_than=DAY)
    assert [path.exists() for path in paths] == [False, True, True]

    assert await nobodys.sweep(Records(), older_than=0) == Swept(0, 0)
    assert not await nobodys.is_due(0)
    await theirs.sweep(Records(), older_than=DAY)
    assert [path.exists() for path in paths] == [False, False, True]


async def test_values_of_another_store_are_still_read_and_deleted_by_their_record(tmp_path: Path) -> None:
    ref = await kept(Files(tmp_path), 1, ref_of(int))
    mine = owned(tmp_path)

    assert await mine.load(ref, None) == 1
    await mine.delete(ref)
    assert everything(tmp_path) == []


async def test_the_records_are_asked_in_batches_after_the_files_were_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "AT_ONCE", 3)
    files = owned(tmp_path)
    paths = [await stray(files, tmp_path) for _ in range(8)]
    late = ref_of(int)

    class Committing(Records):
        """Where something is committed between the finding and the asking."""

        async def __call__(self, materializations: Collection[str]) -> Collection[str]:
            self.known |= {*materializations} & {late.materialization}
            return await super().__call__(materializations)

    kept_path = await stray(files, tmp_path, ref=late)
    records = Committing()

    swept = await files.sweep(records, older_than=DAY)

    assert swept.number == 8
    assert max(map(len, records.asked)) == 3
    assert sorted(each for asked in records.asked for each in asked) == sorted(
        [late.materialization, *(path.name for path in paths)]
    )
    assert kept_path.exists()


async def test_a_value_that_is_written_again_meanwhile_stays(tmp_path: Path) -> None:
    files = owned(tmp_path)
    ref = ref_of(int)
    path = await stray(files, tmp_path, ref=ref)

    async def writing(materializations: Collection[str]) -> Collection[str]:
        await files.store(ref, 8)
        return ()

    assert await files.sweep(writing, older_than=DAY) == Swept(0, 0)
    assert path.read_bytes() == b" 8"


async def test_a_value_that_goes_by_itself_meanwhile_is_no_failure(tmp_path: Path) -> None:
    files = owned(tmp_path)
    path = await stray(files, tmp_path)

    async def deleting(materializations: Collection[str]) -> Collection[str]:
        path.unlink()
        return ()

    assert await files.sweep(deleting, older_than=DAY) == Swept(0, 0)


async def test_drafts_of_the_dead_go_and_those_being_written_stay(tmp_path: Path) -> None:
    files = owned(tmp_path)
    folder = tmp_path / f".values/.{MINE}/sales/orders"
    dead, alive = Draft(folder / new_id()), Draft(folder / new_id())
    dead.write(b"half a value")
    dead._close()  # what the death of its process does to it
    alive.write(b"a stream that has not ended for two days")
    left = sorted(folder.iterdir())
    age(*left)

    assert await files.sweep(Records(), older_than=DAY) == Swept(1, len(b"half a value"))

    alive.write(b", and goes on")
    alive.publish()
    assert alive.path.read_bytes().endswith(b"goes on")
    assert sorted(folder.iterdir()) == [alive.path]


@pytest.mark.parametrize("streamed", [False, True])
async def test_whatever_a_crash_leaves_lies_where_it_is_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    files = owned(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Draft, "publish", lambda _: (_ for _ in ()).throw(SystemExit))
        patch.setattr(Draft, "discard", Draft._close)
        with pytest.raises(SystemExit):
            await files.store(ref_of(int, stream=streamed), numbers(3) if streamed else 7)
        assert len(everything(tmp_path)) == 1
    ref = ref_of(int)
    stored = await files.store(ref, 7)
    with monkeypatch.context() as patch:
        patch.setattr(Draft, "publish", lambda _: (_ for _ in ()).throw(SystemExit))
        patch.setattr(Draft, "discard", Draft._close)
        with pytest.raises(SystemExit):
            await files.publish(ref._replace(location=stored.location))
    folder = tmp_path / f".values/.{MINE}"
    left = [path for path in folder.rglob("*") if path.is_file()]
    assert len(left) == 3
    age(*left)

    assert (await files.sweep(Records(ref.materialization), older_than=DAY)).number == 2

    assert [path for path in folder.rglob("*") if path.is_file() and path.name != ".swept"] == [
        tmp_path / stored.location
    ]


async def test_empty_folders_go_too(tmp_path: Path) -> None:
    files = owned(tmp_path)
    await stray(files, tmp_path, ref=ref_of(int, partition="us"))

    await files.sweep(Records(), older_than=DAY)

    assert everything(tmp_path) == [f".values/.{MINE}/.swept"]
    assert not (tmp_path / f".values/.{MINE}/sales").exists()


async def test_it_is_due_once_in_a_while_and_only_where_something_was_stored(tmp_path: Path) -> None:
    files = owned(tmp_path / "root")
    assert not await files.is_due(DAY)
    assert everything(tmp_path) == []
    await stray(files, tmp_path / "root")
    assert await files.is_due(DAY)

    await files.sweep(Records(), older_than=DAY, dry=True)
    assert await files.is_due(DAY), "a dry sweep is none"
    await files.sweep(Records(), older_than=DAY)
    assert not await files.is_due(DAY)

    age(tmp_path / f"root/.values/.{MINE}/.swept", days=1.01)
    assert await files.is_due(DAY)


async def test_a_root_that_is_a_file_is_never_due(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"")

    assert not await owned(tmp_path / "root").is_due(DAY)
    assert await owned(tmp_path / "root").sweep(Records(), older_than=DAY, dry=True) == Swept(0, 0)


@pytest.mark.parametrize(("function", "done"), [("scandir", "read"), ("unlink", "deleted")])
async def test_what_cannot_be_swept_is_an_error_that_names_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, done: str
) -> None:
    files = owned(tmp_path)
    await stray(files, tmp_path)

    monkeypatch.setattr(os, function, failing(errno.EACCES))
    with pytest.raises(StorageError, match=f"cannot be {done}") as caught:
        await files.sweep(Records(), older_than=DAY)
    monkeypatch.undo()

    assert str(tmp_path) in caught.value.message
    assert await files.is_due(DAY), "it has not ended"


async def test_the_event_loop_looks_at_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = owned(tmp_path)
    await stray(files, tmp_path)
    threads: set[int] = set()
    for function in ("_next", "_remove", "_mark", "is_due"):
        module = sweeping if function != "is_due" else __import__("flowstone_async.io.files", fromlist=["files"])
        real = getattr(module, function)

        def noted(*args: object, real: object = real) -> object:
            threads.add(get_ident())
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(module, function, noted)

    assert await files.is_due(DAY)
    await files.sweep(Records(), older_than=DAY)

    assert threads
    assert get_ident() not in threads


async def test_a_copy_is_shown_on_another_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = owned(tmp_path)
    real = Path.replace

    def elsewhere(path: Path, target: Path) -> Path:
        if target.parent != path.parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(path, target)

    monkeypatch.setattr(drafts.Path, "replace", elsewhere)

    async def items() -> AsyncGenerator[int]:
        async for no in numbers(3):
            yield no

    await kept(files, items(), ref_of(int, stream=True))

    assert (tmp_path / "sales/orders.json").read_bytes() == b"[0,1,2]"
    assert not [path for path in everything(tmp_path) if path.endswith(".draft")]
