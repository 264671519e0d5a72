"""What Python imports where a program begins: it enforces the mode of the tests in every program that they start.

This folder is on the path of such programs, theirs, and so on (`modes.python_path`). Nothing is imported before the
program imports it itself.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_EVICTS = os.environ.get("FLOWSTONE_TEST_MODE") == "evict"
_LAST = "flowstone_async.engine" if _EVICTS else "flowstone_async.store.postgres.store"
"""What is imported before anything is made that is to be of the mode."""


class _Finder(MetaPathFinder):
    """Has the mode enforced as soon as that module is there."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != _LAST:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        plain = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            plain(module)
            from tests.support.modes import enforce

            enforce()

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Finder())
