"""What bodies return, as it is stored and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowstone_async._engine.scatter.packing import Packer
from flowstone_async.definition.scatter import ResultForm
from flowstone_async.errors import Failure
from flowstone_async.failures import describe
from flowstone_async.store.blocks import Block


class Results:
    """Encodes and decodes results.

    Args:
        annotation: The type of one; None where it is not known.
        names: Names local to where it was written.
        form: How they are stored.
    """

    def __init__(self, annotation: object, names: Mapping[str, object] | None, form: ResultForm) -> None:
        self._packer, self._form = Packer(annotation, names), form

    def pack(self, values: Sequence[Any]) -> tuple[Block, Mapping[int, Failure]]:
        """Encode results; the positions are the caller's to fill in. Those that cannot be are named by their place."""
        packed = self._packer.pack(values)
        refused = {place: describe(error) for place, error in packed.refused.items()}
        if self._form == "packed":
            return Block((), packed.data), refused
        return Block((), b"", self._packer.rows(packed.data)), refused

    def unpack(self, block: Block) -> Sequence[Any]:
        """Return the results of a block, in the order of its positions."""
        if block.rows is None:
            return self._packer.unpack(block.body)
        return self._packer.of_rows(block.rows)
