"""Values in files: one file for each materialization, and a copy of the current one under a name for people."""

from __future__ import annotations

import copy
import errno
import os
import re
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Self

import anyio
from anyio import to_thread
from typing_extensions import override

from flowstone_async.definition.stream import Stream
from flowstone_async.errors import ConfigError, StorageError
from flowstone_async.io.base import IOManager, Recorded, Stored, Swept, ValueRef
from flowstone_async.io.chunks import HASH_BYTES, read_stream, write_stream
from flowstone_async.io.drafts import Draft, locked_file, read_from, remove_file, write_file
from flowstone_async.io.encoder import Encoder, Format
from flowstone_async.io.fingerprint import digest
from flowstone_async.io.paths import DEFAULT, checked_template, file_name, key_folder, public_path
from flowstone_async.io.sweeping import is_due, sweep
from flowstone_async.io.value_errors import damaged, missing, storage_error, whose

_VALUES = ".values"
_OWNERS = ".public"
_LENGTH_BYTES = 4
_COPY_BYTES = 1024 * 1024
_CLEANUP_SECONDS = 5
_SUFFIX = re.compile(r"(?:\.[A-Za-z0-9_-]{1,16}){0,3}")
_TRANSIENT = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.EDQUOT,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOSPC,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
_HINTS = {
    errno.ENOSPC: "Free space on that disk, or give io.Files another root.",
    errno.EDQUOT: "Free space in that quota, or give io.Files another root.",
    errno.EACCES: "Let this process read and write there, or give io.Files another root.",
    errno.EPERM: "Let this process read and write there, or give io.Files another root.",
    errno.EROFS: "The file system is read-only: give io.Files another root.",
}


class Files(IOManager):
    """Keeps each value in a file of its own below `<root>/.values`, and shows a copy of the current one.

    The copy is made after the commit and is for people and other programs; nothing is ever read back from it. A JSON
    stream is shown as one JSON array. Each store has a folder of its own below `.values`, from which its engines
    delete what no record of theirs has named for a day.

    Args:
        root: Folder of the values, relative to the working directory at this moment; made when first needed.
        path: Where the copies are shown, below `root`: a template with `{pipeline}`, `{asset}` and `{partition}`, or a
            function of the partition. Characters that are no part of a portable file name are written as `%XX`.
        suffix: Put after a path that does not end with it; `".json"`, or `".pickle"` for that format.
        format: `"json"`, or `"pickle"`, which takes any picklable object and needs `Engine(secret=...)`.

    Raises:
        ConfigError: `path` leaves the root or has an unknown field, or another option is wrong.

    Example:
        >>> @pipe.asset(partitions=Daily(start="2025-01-01"), io=io.Files("./lake", path="daily/{partition}"))
        ... async def report() -> Report: ...  # ./lake/daily/2025-01-01.json
    """

    def __init__(
        self,
        root: str | os.PathLike[str] = "./data",
        *,
        path: str | Callable[[Any], str] | None = None,
        suffix: str | None = None,
        format: Format = "json",  # noqa: A002 # the option's name
    ) -> None:
        if not isinstance(root, str | os.PathLike):
            raise ConfigError(f"io.Files(root={root!r}) is no folder", hint='Give one such as "./data".')
        if path is not None and not isinstance(path, str) and not callable(path):
            raise ConfigError(f"io.Files(path={path!r})", hint="Give a template, or a function of the partition.")
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 # Path.resolve would follow links
        self._public = checked_template(path) if isinstance(path, str) else path or DEFAULT
        self._suffix = f".{format}" if suffix is None else suffix
        if not isinstance(self._suffix, str) or not _SUFFIX.fullmatch(self._suffix):
            raise ConfigError(f"io.Files(suffix={suffix!r}) is no suffix", hint='Give one such as ".json".')
        self._encoder = Encoder(format)
        self._folds: bool | None = None
        self._store: Callable[[], str | None] = lambda: None

    @property
    def encoder(self) -> Encoder:
        """What encodes its values."""
        return self._encoder

    @property
    @override
    def name(self) -> str:
        return f"files:{self._root}"

    def signed(self, key: bytes | Sequence[bytes]) -> Self:
        """Return this manager with the keys that sign pickles; see `Signing`."""
        signed = copy.copy(self)
        vars(signed).update(_encoder=self._encoder.signed(key))
        return signed

    def owned(self, store: Callable[[], str | None]) -> Self:
        """Return this manager with a folder of its own for the values of a store; see `Sweeping`."""
        owned = copy.copy(self)
        vars(owned).update(_store=store)
        return owned

    @override
    def supports(self, type_: object) -> bool:
        return self._encoder.codec(type_).supports() is None

    @override
    async def store(self, ref: ValueRef, value: Any) -> Stored:
        self._shown(ref)  # a path that cannot be is refused before anything is committed
        if ref.stream:
            return await self._store_stream(ref, value)
        return await to_thread.run_sync(self._write, ref, value)

    @override
    async def load(self, ref: ValueRef, want: object) -> Any:
        if ref.stream:
            return await self._load_stream(ref)
        return await to_thread.run_sync(self._read, ref)

    @override
    async def delete(self, ref: ValueRef) -> None:
        await to_thread.run_sync(self._delete, ref)

    async def publish(self, ref: ValueRef) -> None:
        """Show a value that has just been committed; see `Publishing`."""
        await to_thread.run_sync(self._publish, ref)

    async def is_due(self, every: float) -> bool:
        """Tell whether it is time to sweep; see `Sweeping`."""
        folder = self._swept_folder()
        return folder is not None and await to_thread.run_sync(is_due, folder, every)

    async def sweep(self, recorded: Recorded, *, older_than: float, dry: bool = False) -> Swept:
        """Delete values that no record names; see `Sweeping`."""
        folder = self._swept_folder()
        return Swept(0, 0) if folder is None else await sweep(folder, recorded, older_than=older_than, dry=dry)

    def _swept_folder(self) -> Path | None:
        return None if self._store() is None else self._root / self._values()

    def _write(self, ref: ValueRef, value: object) -> Stored:
        try:
            encoded = self._encoder.codec(ref.type, ref.names).prepare(value)
        except StorageError as error:
            raise whose(ref, error) from error
        location = self._location(ref)
        with _translated(ref, "written", self._root / location):
            write_file(self._root / location, encoded.data)
        return Stored(
            location=location,
            size=len(encoded.data),
            checksum=digest(encoded.data),
            fingerprint=encoded.fingerprint,
        )

    def _read(self, ref: ValueRef) -> object:
        path = self._path(ref)
        with _translated(ref, "read", path):
            data = path.read_bytes()
        if ref.checksum is not None and digest(data) != ref.checksum:
            raise damaged(ref, str(path), "it fails its checksum")
        try:
            return self._encoder.codec(ref.type, ref.names).decode(data)
        except StorageError as error:
            raise whose(ref, error) from error

    def _delete(self, ref: ValueRef) -> None:
        path, shown = self._path(ref), self._shown(ref)
        with _translated(ref, "deleted", path):
            remove_file(path, self._root)
            owner = self._owner(shown)
            if not owner.exists():
                return
            with locked_file(owner) as descriptor:
                if os.read(descriptor, 1024).decode() == ref.materialization:
                    remove_file(self._root / shown, self._root)
                    remove_file(owner, self._root)

    def _publish(self, ref: ValueRef) -> None:
        path, shown = self._path(ref), self._shown(ref)
        with _translated(ref, "published", self._root / shown), locked_file(self._owner(shown)) as descriptor:
            if not path.exists():  # superseded and deleted already
                return
            os.ftruncate(descriptor, 0)
            os.write(descriptor, ref.materialization.encode())
            draft = Draft(self._root / shown, path.parent)
            try:
                for part in self._copied(ref, path):
                    draft.write(part)
                draft.publish()
            finally:
                draft.discard()

    def _copied(self, ref: ValueRef, path: Path) -> Generator[bytes]:
        if ref.stream and self._encoder.format == "json":
            yield from _as_array(_frames(ref, path))
            return
        offset = 0
        while part := read_from(path, offset, _COPY_BYTES):
            offset += len(part)
            yield part

    async def _store_stream(self, ref: ValueRef, source: object) -> Stored:
        location = self._location(ref)
        draft = Draft(self._root / location)

        def write(frame: bytes) -> None:
            with _translated(ref, "written", draft.path):
                draft.write(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame)

        def publish() -> None:
            with _translated(ref, "written", draft.path):
                draft.publish()

        async def keep(_: int, frame: bytes) -> None:
            await to_thread.run_sync(write, frame)

        codec = self._encoder.codec(ref.type, ref.names)
        try:
            stored = await write_stream(ref, source, codec, location=location, pack=bytes, keep=keep)
            await to_thread.run_sync(publish)
            return stored
        except BaseException:
            with anyio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await to_thread.run_sync(draft.discard, abandon_on_cancel=True)
            raise

    async def _load_stream(self, ref: ValueRef) -> Stream[Any]:
        path = self._path(ref)
        codec = self._encoder.codec(ref.type, ref.names)
        if not await to_thread.run_sync(path.exists):
            raise missing(ref, str(path))

        async def frames() -> AsyncGenerator[bytes]:
            offset = 0
            # No file is open between two chunks, so that a reader may stop anywhere.
            while (frame := await to_thread.run_sync(_frame, ref, path, offset)) is not None:
                offset += _LENGTH_BYTES + len(frame)
                yield frame

        return Stream(lambda: read_stream(ref, codec, frames(), unpack=bytes, where=str(path)))

    def _path(self, ref: ValueRef) -> Path:
        """Return where a value is; a record cannot name a place outside."""
        location = PurePosixPath(ref.location or self._location(ref))
        if location.parts[:1] != (_VALUES,) or ".." in location.parts:
            raise storage_error(ref, f"{ref.location!r} is no place of io.Files", details={"location": ref.location})
        return self._root / location

    def _location(self, ref: ValueRef) -> str:
        return f"{self._values()}/{key_folder(ref.key)}/{file_name(ref.materialization)}"

    def _values(self) -> str:
        """Return the folder of values below the root: one for each store, so that none sweeps another's."""
        store = self._store()
        return _VALUES if store is None else f"{_VALUES}/.{file_name(store)}"

    def _shown(self, ref: ValueRef) -> str:
        """Return where a value is shown, below the root."""
        try:
            path = public_path(self._public, ref.key, ref.partition, fold=self._folding())
        except ConfigError as error:
            raise storage_error(ref, error.message, hint=error.hint) from error
        # Of a template, its own text decides: a key may end with the suffix by chance.
        written = self._public if isinstance(self._public, str) else path
        return path if written.endswith(self._suffix) else path + self._suffix

    def _owner(self, shown: str) -> Path:
        """Return the file that says of which materialization a shown file is a copy."""
        return self._root / _VALUES / _OWNERS / shown

    def _folding(self) -> bool:
        """Tell whether the file system takes `.values` and `.VALUES` for one name."""
        if self._folds is None and (self._root / _VALUES).exists():
            self._folds = (self._root / _VALUES.upper()).exists()
        return bool(self._folds)


def _frame(ref: ValueRef, path: Path, offset: int) -> bytes | None:
    """Return the frame of a stream's file that begins at `offset`; None at the end of the file."""
    with _translated(ref, "read", path):
        head = read_from(path, offset, _LENGTH_BYTES)
        if not head:
            return None
        size = int.from_bytes(head, "big")
        frame = read_from(path, offset + _LENGTH_BYTES, size)
    if len(head) < _LENGTH_BYTES or len(frame) < size:
        raise damaged(ref, str(path), "it ends in the middle of a chunk")
    return frame


def _frames(ref: ValueRef, path: Path) -> Generator[bytes]:
    offset = 0
    while (frame := _frame(ref, path, offset)) is not None:
        offset += _LENGTH_BYTES + len(frame)
        yield frame


def _as_array(frames: Generator[bytes]) -> Generator[bytes]:
    """Join the chunks of a stream, each of which is a JSON array."""
    before = b"["
    for frame in frames:
        yield before
        yield frame[HASH_BYTES:].strip()[1:-1]
        before = b",\n"
    yield b"[]" if before == b"[" else b"]"


@contextmanager
def _translated(ref: ValueRef, done: str, path: Path) -> Generator[None]:
    """Turn errors of the file system into storage errors."""
    try:
        yield
    except FileNotFoundError as error:
        if done != "read":
            raise storage_error(
                ref, f"its value cannot be {done} at {path}: {error.strerror}", retryable=True
            ) from error
        raise missing(ref, str(path)) from error
    except OSError as error:
        raise storage_error(
            ref,
            f"its value cannot be {done} at {path}: {error.strerror or error}",
            hint=_HINTS.get(error.errno or 0),
            retryable=error.errno in _TRANSIENT,
            details={"location": str(path), "errno": errno.errorcode.get(error.errno or 0)},
        ) from error
