"""Tables of cases with names that do not depend on values, whose order or address may change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from flowstone_async.definition.assignable import render


def numbered(cases: Iterable[tuple[Any, ...]]) -> list[ParameterSet]:
    """Name each case after its number and the annotation that comes first."""
    return [pytest.param(*case, id=f"{number}-{render(case[0])}") for number, case in enumerate(cases)]
