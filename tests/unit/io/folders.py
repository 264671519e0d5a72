"""What `io.Files` leaves in a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flowstone_async.io.base import ValueRef
from flowstone_async.io.files import Files


async def kept(files: Files, value: object, ref: ValueRef) -> ValueRef:
    """Store and publish a value, as an engine does around its commit."""
    stored = await files.store(ref, value)
    ref = ref._replace(location=stored.location, checksum=stored.checksum)
    await files.publish(ref)
    return ref


def shown(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and ".values" not in path.parts
    )


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def folders(root: Path) -> list[str]:
    """List all folders."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir())


def failing(number: int) -> Any:
    def fail(*_: object, **__: object) -> Any:
        raise OSError(number, os.strerror(number))

    return fail
