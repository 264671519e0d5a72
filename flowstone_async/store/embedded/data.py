"""The data directory: made whole, under another name first, or not at all."""

from __future__ import annotations

import shutil

from flowstone_async.errors import StoreUnavailable
from flowstone_async.store.embedded.address import DATABASE, ROLE
from flowstone_async.store.embedded.binaries import Binaries
from flowstone_async.store.embedded.place import Place, sync_folder

_PATIENCE = 300.0
_BUILTIN_LOCALE_SINCE = 17


def create_data(place: Place, binaries: Binaries, *, lock: int, durable: bool) -> None:
    """Make the data directory with the role and the database, and rename it into place as the last step.

    Args:
        place: Where to; what an interrupted attempt left there is removed.
        binaries: The version to make it with.
        lock: Open file of `server_lock`, which the programs hold on to: an orphan of an attempt that was killed
            keeps the next one waiting instead of writing into its files.
        durable: Whether it must survive a power cut.

    Raises:
        ConfigError: The programs cannot be run as the server's user.
        OSError: The folder cannot be made, or renamed.
        StoreUnavailable: A program failed, for example because the disk is full.
    """
    account, fresh = place.account, place.data.with_suffix(".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    try:
        account.give(fresh)
        _run(place, binaries, "initdb", *_initdb_options(binaries, durable=durable), "-D", str(fresh), lock=lock)
        # In single-user mode, so that it is part of the one rename: no later start has to look whether it is there.
        statements = f"ALTER ROLE {ROLE} PASSWORD '{place.password()}'\nCREATE DATABASE {DATABASE}\n"
        options = ("-c", "exit_on_error=on", "-c", "log_checkpoints=off", "-c", "log_min_error_statement=panic")
        _run(
            place, binaries, "postgres", "--single", *options, "-D", str(fresh), "template1", lock=lock, text=statements
        )
        fresh.rename(place.data)
        sync_folder(place.cluster)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _initdb_options(binaries: Binaries, *, durable: bool) -> list[str]:
    # Only cluster.py's own pg_hba.conf lets anybody in; these are for somebody who starts the server by hand.
    options = ["--no-instructions", "-U", ROLE, "--auth-local=peer", "--auth-host=reject", "-E", "UTF8", "--locale=C"]
    if binaries.major >= _BUILTIN_LOCALE_SINCE:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return options if durable else [*options, "--no-sync"]


def _run(place: Place, binaries: Binaries, name: str, *arguments: str, lock: int, text: str = "") -> None:
    program = binaries.program(name)
    output = place.account.run(program, *arguments, patience=_PATIENCE, text=text, inherit=[lock])
    if output.code:
        tail = output.text.strip()[-2000:]
        raise StoreUnavailable(
            f"{name} could not make a database in {place.cluster}:\n{tail}",
            hint="See that there are 100 MB of free disk, and try again; nothing was left behind.",
            details={"program": str(program), "exit_code": output.code, "output": tail},
        )
