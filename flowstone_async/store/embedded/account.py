"""The operating-system user that the server's processes run as.

Postgres refuses to run as root. For root it runs as `nobody`, with a group of its own: folders that are open to that
group only keep out whatever else runs as `nobody`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from flowstone_async.errors import ConfigError, StoreUnavailable

if sys.platform != "win32":
    import pwd

# A number that neither distributions (up to 60000, 65534) nor systemd (61184 to 65519) hand out; it needs no name.
_GROUP = 60888
_KEPT = ("LD_LIBRARY_PATH", "PATH")
_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """How a program ended.

    Attributes:
        code: Its exit code.
        text: What it wrote to stdout and stderr, in order.
    """

    code: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who runs the server's processes, and for whom.

    Attributes:
        name: Name of the user that the server runs as.
        client: Name of the user that this process runs as, the only one that the server lets in.
        borrowed: Whether the two differ, as they do for root.
    """

    name: str
    client: str
    uid: int
    gid: int
    borrowed: bool

    @property
    def caller(self) -> Account:
        """This process's own user, for programs that do not mind root."""
        return replace(self, name=self.client, uid=os.geteuid(), gid=os.getegid(), borrowed=False)

    def run(
        self,
        program: Path | str,
        *arguments: str,
        patience: float,
        text: str = "",
        output: IO[bytes] | None = None,
        inherit: Sequence[int] = (),
    ) -> Output:
        """Run a program as this user and wait for it, in a session of its own that no Ctrl-C reaches.

        Args:
            program: What to run.
            arguments: What to tell it.
            patience: Seconds after which it is killed.
            text: What it reads from stdin.
            output: Where its output goes instead of into the result.
            inherit: Open files that it and its children keep.

        Raises:
            ConfigError: It cannot be run at all.
            StoreUnavailable: It took too long.
        """
        try:
            ended = subprocess.run(  # noqa: S603 - a list of our own making, no shell
                [str(program), *arguments],
                input=text.encode(),
                stdout=output or subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=patience,
                check=False,
                cwd="/",
                env={name: os.environ[name] for name in _KEPT if name in os.environ} | _ENVIRONMENT,
                start_new_session=True,
                pass_fds=inherit,
                user=self.uid if self.borrowed else None,
                group=self.gid if self.borrowed else None,
                extra_groups=[] if self.borrowed else None,
            )
        except subprocess.TimeoutExpired as error:
            raise StoreUnavailable(f"{program} did not end within {patience:g} s") from error
        except (OSError, subprocess.SubprocessError) as error:
            raise self._cannot(f"run {program}", error) from error
        return Output(code=ended.returncode, text=(ended.stdout or b"").decode(errors="replace"))

    def can_run(self, program: Path) -> bool:
        """Return whether this user may reach and run a program."""
        return self._tries('"$1" --version', program)

    def can_enter(self, folder: Path) -> bool:
        """Return whether this user may reach a folder, or the nearest parent that exists."""
        while not folder.exists():
            folder = folder.parent
        return self._tries('cd "$1"', folder)

    def share(self, path: Path, *, mode: int) -> None:
        """Let this user, and nobody else, at something of ours.

        Args:
            path: A file or folder that we made.
            mode: Permissions, of which the group's are this user's.

        Raises:
            ConfigError: We may not give it away.
        """
        try:
            if self.borrowed:
                os.chown(path, -1, self.gid)
            path.chmod(mode if self.borrowed else mode & 0o700)
        except OSError as error:
            raise self._cannot(f"share {path}", error) from error

    def give(self, folder: Path) -> None:
        """Make this user the owner of a folder that we made, and let nobody else in.

        Raises:
            ConfigError: We may not give it away.
        """
        try:
            folder.chmod(0o700)
            if self.borrowed:
                os.chown(folder, self.uid, self.gid)
        except OSError as error:
            raise self._cannot(f"give away {folder}", error) from error

    def _tries(self, command: str, path: Path) -> bool:
        return self.run("/bin/sh", "-c", command, "sh", str(path), patience=60).code == 0

    def _cannot(self, what: str, error: Exception) -> ConfigError:
        who = f"as user {self.name!r}, for Postgres does not run as root" if self.borrowed else "for the server"
        return ConfigError(
            f"cannot {what} {who}: {error}",
            hint="Run as a user other than root, or use a server of your own: store='postgresql://...'.",
        )


def server_account() -> Account:
    """Find out who will run the server.

    Raises:
        ConfigError: This process's user, or `nobody` for root, has no name on this system.
    """
    uid = os.geteuid()
    try:
        client = pwd.getpwuid(uid)
        if uid != 0:
            return Account(name=client.pw_name, client=client.pw_name, uid=uid, gid=os.getegid(), borrowed=False)
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        missing = "user 'nobody', who would run the server for root," if uid == 0 else f"user id {uid}"
        raise ConfigError(
            f"{missing} has no entry in this system's list of users, and Postgres needs one",
            hint="Add it to /etc/passwd, or use a server of your own: store='postgresql://...'.",
        ) from error
    return Account(name="nobody", client=client.pw_name, uid=nobody.pw_uid, gid=_GROUP, borrowed=True)


def user_name(uid: int) -> str:
    """Return the name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
