"""What bodies note of their values, made fit to be kept."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping

from flowstone_async._engine.services import Services
from flowstone_async.errors import StorageError

_logger = logging.getLogger("flowstone")


def encodable(notes: Mapping[str, object], asset: str, services: Services) -> Mapping[str, object]:
    """Return what can be stored of the notes of an asset, without its secrets; nothing if it is no JSON.

    Raises:
        StorageError: It is no JSON, and the engine is strict about that.
    """
    try:
        return json.loads(json.dumps(services.redactor.value(notes)))
    except (TypeError, ValueError) as error:
        text = f"metadata of asset {asset!r} cannot be stored: {error}"
        if services.settings.strict_metadata:
            raise StorageError(text, asset=asset, hint="Note JSON-compatible values.") from error
        _logger.warning("%s; the value is kept", text)
        return {}
