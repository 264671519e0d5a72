"""What is counted for whoever watches a store: `Store.figures`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from flowstone_async.store.gates import GateKind


class Figures(NamedTuple):
    """What goes on in the runs of some pipelines.

    Attributes:
        gates: Open gates whose deadline has not passed, by kind; those of which there are none are left out.
        pending: Items that have no result yet, of scatters of running runs.
        waiting: Items of these that wait for their time to be tried again.
        succeeded: Items of these that have a result.
        failed: Items of these that have failed.
    """

    gates: Mapping[GateKind, int]
    pending: int = 0
    waiting: int = 0
    succeeded: int = 0
    failed: int = 0
