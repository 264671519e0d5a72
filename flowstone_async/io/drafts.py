"""Files that are seen as a whole or not at all, and that a crash of the machine does not take back."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import sys
from collections.abc import Generator
from pathlib import Path
from threading import Lock

if sys.platform != "win32":
    import fcntl

DRAFT_SUFFIX = ".draft"

_DRAFT = re.compile(rf"\.[0-9a-f]{{16}}{re.escape(DRAFT_SUFFIX)}")
_TRIES = 100
_COPY_BYTES = 1024 * 1024


class Draft:
    """A file that is being written apart from its future place; no other file is touched before `publish`.

    Its methods block. They may be called from different threads, also `discard` while another one is at work: what
    comes after it has no effect. `remove_draft` leaves it alone for as long as its process lives.

    Args:
        path: The future place; its folder is made if need be.
        folder: Where it is written; the folder of `path` by default.
    """

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path = path
        self._folder = folder or path.parent
        self.size = 0
        self._lock = Lock()
        self._temporary: Path | None = None
        self._descriptor: int | None = None
        self._discarded = False

    def write(self, data: bytes) -> None:
        """Append bytes: all of them, or none if it raises `OSError`."""
        with self._lock:
            descriptor = self._open()
            os.lseek(descriptor, self.size, os.SEEK_SET)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            self.size += len(data)

    def publish(self) -> None:
        """Put the file in its place, where it replaces an earlier one."""
        with self._lock:
            descriptor = self._open()
            os.ftruncate(descriptor, self.size)
            os.fsync(descriptor)
            self._close()
            if self._temporary is not None:
                _replace(self._temporary, self.path)
                self._temporary = None
            sync_folder(self.path.parent)

    def discard(self) -> None:
        """Forget what was written and not published; never raises `OSError`."""
        with self._lock:
            self._discarded = True
            with contextlib.suppress(OSError):
                self._close()
            if self._temporary is not None:
                with contextlib.suppress(OSError):
                    self._temporary.unlink()
                self._temporary = None

    def _open(self) -> int:
        if self._discarded:
            raise FileNotFoundError(errno.ENOENT, "the draft was discarded", str(self.path))
        if self._descriptor is None:
            temporary = self._folder / f".{secrets.token_hex(8)}{DRAFT_SUFFIX}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
            self._descriptor = _open_in_folder(temporary, flags)
            self._temporary = temporary
            if sys.platform != "win32":
                with contextlib.suppress(OSError):  # file systems without locks: a draft's age must do there
                    fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def write_file(path: Path, data: bytes) -> None:
    """Write a file as a whole.

    Raises:
        OSError: It could not be written; an earlier file is as it was.
    """
    draft = Draft(path)
    try:
        draft.write(data)
        draft.publish()
    finally:
        draft.discard()


def read_from(path: Path, offset: int, size: int) -> bytes:
    """Return at most `size` bytes of a file, from `offset`."""
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        parts: list[bytes] = []
        while size > 0 and (part := file.read(size)):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def remove_file(path: Path, root: Path) -> None:
    """Remove a file that may be gone, and the folders below `root` that this leaves empty."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        path.unlink()
    for folder in path.parents:
        if folder == root or root not in folder.parents:
            return
        try:
            folder.rmdir()
        except OSError:  # somebody uses it
            return


def is_draft(name: str) -> bool:
    """Tell whether a file of this name is a draft."""
    return _DRAFT.fullmatch(name) is not None


def remove_draft(path: Path, root: Path) -> bool:
    """Remove a draft, and the folders below `root` that this leaves empty, unless somebody is writing it."""
    if sys.platform != "win32":
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    remove_file(path, root)
    return True


@contextlib.contextmanager
def locked_file(path: Path) -> Generator[int]:
    """Hold a file, made if need be, for as long as nobody else holds it, in this process or another one on POSIX.

    Yields:
        The open file.
    """
    while True:
        descriptor = _open_in_folder(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0))
        try:
            if sys.platform != "win32":
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_at(descriptor, path):  # not removed while we waited
                yield descriptor
                return
        finally:
            os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that know no such thing
            raise
    finally:
        os.close(descriptor)


def _replace(temporary: Path, path: Path) -> None:
    """Move a file to its place, whose folder is made if need be, and may be on another disk."""
    try:
        for _ in range(_TRIES):
            with contextlib.suppress(FileNotFoundError):
                temporary.replace(path)
                return
            with contextlib.suppress(FileNotFoundError):
                _make_folder(path.parent)
        temporary.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(temporary, Draft(path))
        temporary.unlink()


def _copy(source: Path, draft: Draft) -> None:
    try:
        while part := read_from(source, draft.size, _COPY_BYTES):
            draft.write(part)
        draft.publish()
    finally:
        draft.discard()


def _open_in_folder(path: Path, flags: int) -> int:
    """Open a file in a folder that is made if need be, and that others remove when they find it empty."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, flags, 0o666)
        with contextlib.suppress(FileNotFoundError):
            _make_folder(path.parent)
    return os.open(path, flags, 0o666)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        sync_folder(folder.parent)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
