"""How often each address may call, in this process, in memory that does not grow."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_KNOWN = 10_000
_NETWORK_BITS = 64
"""What one customer of a provider gets of IPv6, so that one address counts for all of it."""


class Addresses:
    """Lets every address call so many times a second, all of them at once if it likes.

    A bucket for each address that has called of late; the one that has not for longest makes room.

    Args:
        rate: Calls a second, and at once.
        clock: Seconds.
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, address: str | None) -> float:
        """Take a call of an address: return 0, or the seconds until it may."""
        key, now = _network(address), self._clock()
        left, since = self._buckets.pop(key, (self._rate, now))
        left = min(self._rate, left + (now - since) * self._rate)
        granted = left >= 1
        self._buckets[key] = (left - 1 if granted else left, now)
        if len(self._buckets) > _MOST_KNOWN:
            self._buckets.popitem(last=False)
        return 0.0 if granted else (1 - left) / self._rate


def _network(address: str | None) -> str:
    try:
        found = ipaddress.ip_address(address or "")
    except ValueError:
        return address or ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((int(found), _NETWORK_BITS), strict=False).network_address)
