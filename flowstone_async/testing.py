"""The test kit: `pipe.test(...)` gives a `Trial`; `ManualClock` is its clock."""

from __future__ import annotations

from flowstone_async._engine.trial import Trial
from flowstone_async.clock import ManualClock

__all__ = ["ManualClock", "Trial"]
