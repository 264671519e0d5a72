"""Engines of the tests of the web side: an app on Postgres needs a secret."""

from __future__ import annotations

from typing import Any

import pytest

from flowstone_async import Engine, Pipeline
from tests.engine.test_signals import SECRET
from tests.support.engines import OpenEngine, SharedEngines


@pytest.fixture
def open_engine(engines: SharedEngines) -> OpenEngine:
    """Open an engine that has a secret; see tests/conftest.py."""

    async def opened(*pipelines: Pipeline, **options: Any) -> Engine:
        return await engines.open(*pipelines, **{"secret": SECRET, **options})

    return opened
