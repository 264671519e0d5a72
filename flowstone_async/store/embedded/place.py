"""The folder of an embedded server: which one, whose it is, and what lies where in it.

home/                 what the user names, ./.flowstone by default
  where               only for root with a private home: names the folder that holds the rest
  secret              signs tokens
  password            for TCP, which only tests use
  start.lock          held while somebody starts or stops the server
  users.lock          shared by every user of the server
  server.lock         held by the server's own processes
  workers/            a locked file for each living worker
  cluster/            what the server's user may enter
    data/             the data directory; data.new/ while it is made
    binaries/         a copy, where the installed ones are out of that user's reach
    log, log.old      what the server wrote
    pg_hba.conf, pg_ident.conf, socket
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from flowstone_async.errors import ConfigError
from flowstone_async.store.embedded.account import Account, user_name

STATE = Path("/var/lib/flowstone")
_SECRET_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one server keeps everything.

    Attributes:
        home: The folder that the user named.
        root: The folder that holds it all: the same, unless the server's user cannot enter that one.
    """

    home: Path
    root: Path
    account: Account

    @property
    def start_lock(self) -> Path:
        """Held while somebody starts or stops the server."""
        return self.root / "start.lock"

    @property
    def users_lock(self) -> Path:
        """Shared by every user of the server."""
        return self.root / "users.lock"

    @property
    def server_lock(self) -> Path:
        """Held by the server's processes, all of them."""
        return self.root / "server.lock"

    @property
    def workers(self) -> Path:
        """Folder with a locked file for each living worker."""
        return self.root / "workers"

    @property
    def cluster(self) -> Path:
        """Folder that the server's user may enter."""
        return self.root / "cluster"

    @property
    def data(self) -> Path:
        """The data directory."""
        return self.cluster / "data"

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.cluster / "log"

    @property
    def folders(self) -> str:
        """What to remove to be rid of it all, quoted for a shell."""
        return shlex.join(dict.fromkeys([str(self.home), str(self.root)]))

    def check(self) -> None:
        """See whether the folder can be used, and change nothing.

        Raises:
            ConfigError: It is no folder, somebody else's, or read-only.
        """
        _check_folder(self.root, os.geteuid())
        _check_folder(self.data, self.account.uid)
        if self.root.exists() and not os.access(self.root, os.W_OK | os.X_OK, effective_ids=_EFFECTIVE):
            raise ConfigError(f"{self.root} is not writable", hint=_ELSEWHERE)

    def data_major(self) -> int | None:
        """Return the major version of Postgres that made the data, or None where there is none yet.

        Raises:
            ConfigError: The folder is no data directory of Postgres.
        """
        if not self.data.exists():
            return None
        try:
            return int((self.data / "PG_VERSION").read_text().split(".")[0])
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(
                f"{self.data} is not a data directory of Postgres: PG_VERSION does not tell its version",
                hint=f"Move it away. {_ELSEWHERE}",
            ) from error

    def make(self) -> None:
        """Make the folders that are missing.

        Raises:
            ConfigError: The server's user cannot be let in.
            OSError: They cannot be made.
        """
        _make_folder(self.home, self.account, ignored=True)
        _make_folder(self.root, self.account)
        _make_folder(self.cluster, self.account)
        self.workers.mkdir(mode=0o700, exist_ok=True)

    def describe(self) -> bool:
        """Say in `home` where everything is, if it is elsewhere; under `start_lock` only.

        Returns:
            Whether that had to be said: it was not there yet.
        """
        if self.root == self.home or (self.home / "where").exists():
            return False
        text = (
            f"{self.root}\n\nThe embedded Postgres server is kept there: user {self.account.name}, as whom it runs for "
            f"root, may not enter this folder.\nTo remove it all: rm -rf {self.folders}\n"
        )
        write_whole(self.home / "where", os.fsencode(text))
        return True

    def secret(self) -> bytes:
        """Return the 32 random bytes that sign tokens; made by the first who asks while holding `start_lock`.

        Raises:
            ConfigError: The file was damaged.
        """
        return self._random("secret")

    def password(self) -> str:
        """Return the password of the server's only role; made as `secret` is."""
        return self._random("password").hex()

    def _random(self, name: str) -> bytes:
        path = self.root / name
        if not path.exists():
            write_whole(path, secrets.token_bytes(_SECRET_BYTES))
        value = path.read_bytes()
        if len(value) != _SECRET_BYTES:
            raise ConfigError(
                f"{path} holds {len(value)} bytes instead of {_SECRET_BYTES}",
                hint="Restore it, or remove it to get a new one; what it signed is then void.",
            )
        return value


def locate(home: Path, account: Account, *, state: Path = STATE) -> Place:
    """Decide where a server lives, and change nothing.

    Args:
        home: The folder that the user named.
        account: Who runs the server.
        state: Where it lives when that user cannot enter `home`.

    Raises:
        ConfigError: The path cannot be followed.
    """
    try:
        home = home.resolve()
        _check_folder(home, os.geteuid())
        if (home / "where").exists():
            first_line = (home / "where").read_bytes().split(b"\n", 1)[0]
            return Place(home=home, root=Path(os.fsdecode(first_line)), account=account)
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"cannot use {home}: {error}", hint=_ELSEWHERE) from error
    place = Place(home=home, root=home, account=account)
    if not account.borrowed or place.data.exists() or account.can_enter(home):
        return place
    return Place(home=home, root=state / hashlib.sha256(os.fsencode(home)).hexdigest()[:16], account=account)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that only we can read, so that it is there whole or not at all."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_ELSEWHERE = "Name another folder: store='embedded:<dir>'."
_EFFECTIVE = os.access in os.supports_effective_ids


def _check_folder(folder: Path, uid: int) -> None:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"cannot use {folder}: {error}", hint=_ELSEWHERE) from error
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint=_ELSEWHERE)
    if found.st_uid != uid:
        owner, expected = user_name(found.st_uid), user_name(uid)
        raise ConfigError(
            f"{folder} belongs to user {owner}, not to {expected}",
            hint=f"Run as {owner}, or name a folder of your own: store='embedded:<dir>'. Nothing was changed.",
            details={"folder": str(folder), "owner": owner, "expected": expected},
        )


def _make_folder(folder: Path, account: Account, *, ignored: bool = False) -> None:
    """Make a folder that appears with its permissions, so that who comes second finds no half-made one."""
    if folder.is_dir():
        return
    if not folder.parent.exists():
        _make_folder(folder.parent, account)
    fresh = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}")
    fresh.mkdir(mode=0o700)
    try:
        account.share(fresh, mode=0o710)
        if ignored:
            (fresh / ".gitignore").write_text("*\n")
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
