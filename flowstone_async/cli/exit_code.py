"""What the process ends with (`CLI-06`)."""

from __future__ import annotations

from typing import Final

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
DEFINITION: Final = 3
TOLERATED: Final = 4
TIMED_OUT: Final = 6
CANCELLED: Final = 7
STORE_UNREACHABLE: Final = 8
INTERRUPTED: Final = 130

MEANINGS: Final = {
    OK: "ok",
    FAILED: "an asset failed, or records are damaged",
    USAGE: "wrong usage; nothing has run",
    DEFINITION: "the pipeline is defined wrongly",
    TOLERATED: "finished, with failures that the target tolerates",
    TIMED_OUT: "timed out",
    CANCELLED: "cancelled",
    STORE_UNREACHABLE: "the store cannot be reached",
    INTERRUPTED: "interrupted",
}
