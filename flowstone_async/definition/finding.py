"""What is wrong with a definition, before it is known where in the source it stands."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One mistake.

    Attributes:
        code: `FS1xx`.
        message: What was found and what was expected. One that starts with a parenthesis continues the asset's name:
            `(metrics: str) but …` is shown as `report(metrics: str) but …`.
        hint: The way out, or None.
    """

    code: str
    message: str
    hint: str | None = None
