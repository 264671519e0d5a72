"""Values in files that no record names: their process died between writing and committing, or forgetting and deleting.

A folder is swept that belongs to one store alone. Only files that we named are looked at: values, which are called by
the id of their materialization, and drafts. Of the first, the store knows which are on record; the second are nobody's
once the process that wrote them is gone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Generator
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

from anyio import to_thread

from flowstone_async.clock import SystemClock
from flowstone_async.errors import StorageError
from flowstone_async.io.base import Recorded, Swept
from flowstone_async.io.drafts import is_draft, remove_draft, remove_file

AT_ONCE = 1_000
"""Files that are looked at in one go: at most so many ids are asked for, and a cancelled sweep ends that soon."""

_MARK = ".swept"


class _Found(NamedTuple):
    """A file of ours: the value of a materialization, or a draft, which has none."""

    path: Path
    materialization: str | None
    written: int
    size: int


def is_due(folder: Path, every: float) -> bool:
    """Tell whether a folder exists whose last sweep ended `every` seconds ago or more, or never."""
    try:
        ended = (folder / _MARK).stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return folder.is_dir()
    except OSError as error:
        raise _failed(folder, "read", error) from error
    return not 0 <= SystemClock().now().timestamp() - ended < every


async def sweep(folder: Path, recorded: Recorded, *, older_than: float, dry: bool) -> Swept:
    """Delete the values in a folder that no record names; see `Sweeping.sweep`."""
    before = math.floor((SystemClock().now().timestamp() - older_than) * 1e9)
    files = _files(folder, before)
    number = size = 0
    while (batch := await to_thread.run_sync(_next, folder, files, abandon_on_cancel=True)) is not None:
        known = await recorded([each.materialization for each in batch if each.materialization is not None])
        left = [each for each in batch if each.materialization not in known]
        if not dry:
            left = await to_thread.run_sync(_remove, folder, left)
        number += len(left)
        size += sum(each.size for each in left)
    if not dry:
        await to_thread.run_sync(_mark, folder)
    return Swept(number, size)


def _next(folder: Path, files: Generator[_Found | None]) -> list[_Found] | None:
    """Return what is found among the next files; None when there are no more."""
    try:
        looked_at = list(islice(files, AT_ONCE))
    except OSError as error:
        raise _failed(folder, "read", error) from error
    return [each for each in looked_at if each is not None] if looked_at else None


def _files(folder: Path, before: int) -> Generator[_Found | None]:
    """Yield the values and drafts below a folder that were written before an instant, and None for everything else."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):  # removed meanwhile
        return
    with entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(Path(entry), before)
            else:
                yield _found(entry, before)


def _found(entry: os.DirEntry[str], before: int) -> _Found | None:
    draft = is_draft(entry.name)
    if not (draft or _is_id(entry.name)) or not entry.is_file(follow_symlinks=False):
        return None
    try:
        facts = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if facts.st_mtime_ns >= before:
        return None
    return _Found(Path(entry), None if draft else entry.name, facts.st_mtime_ns, facts.st_size)


def _remove(folder: Path, files: Collection[_Found]) -> list[_Found]:
    """Remove files that were not written again since they were found; return those."""
    removed: list[_Found] = []
    for each in files:
        try:
            if each.path.stat(follow_symlinks=False).st_mtime_ns != each.written:
                continue
            if each.materialization is not None:
                remove_file(each.path, folder)
            elif not remove_draft(each.path, folder):
                continue
        except FileNotFoundError:
            continue
        except OSError as error:
            raise _failed(each.path, "deleted", error) from error
        removed.append(each)
    return removed


def _mark(folder: Path) -> None:
    try:
        (folder / _MARK).touch()
    except FileNotFoundError:  # nothing was ever stored
        return
    except OSError as error:
        raise _failed(folder, "marked as swept", error) from error


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _failed(path: Path, done: str, error: OSError) -> StorageError:
    return StorageError(
        f"values that no record names cannot be {done} at {path}: {error.strerror or error}",
        hint="Let this process read and write there.",
        details={"location": str(path)},
    )
