"""Where the bodies of a scatter's items have their places."""

from __future__ import annotations

from flowstone_async._engine.waits.places import Places


class ItemPlaces:
    """The places of one scatter, once there are any."""

    __slots__ = ("of",)

    def __init__(self) -> None:
        self.of: Places | None = None
