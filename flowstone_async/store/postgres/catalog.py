"""What is stored: listings of keys, durations, lineage, and taking values away or giving them another name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import batched
