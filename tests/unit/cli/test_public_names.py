"""Public names are imported when they are first used, from where type checkers think they come."""

import ast
import importlib
from pathlib import Path

import pytest

import flowstone_async

STUB = Path(flowstone_async.__file__).with_suffix(".pyi")


def _stub() -> ast.Module:
    return ast.parse(STUB.read_text(encoding="utf-8"))


def test_the_stub_imports_each_name_from_where_the_package_does() -> None:
    imported = {
        alias.name: node.module for node in _stub().body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(imported) == set(flowstone_async.__all__)
    for name, module in imported.items():
        assert module is not None
        home = importlib.import_module(module)
        assert getattr(flowstone_async, name) is getattr(home, name), name


def test_the_stub_lists_the_same_names() -> None:
    listed = next(node.value for node in _stub().body if isinstance(node, ast.Assign))
    assert ast.literal_eval(listed) == flowstone_async.__all__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Pipelin'"):
        flowstone_async.Pipelin  # pyright: ignore[reportAttributeAccessIssue]  # noqa: B018


def test_all_names_are_listed_before_they_are_used() -> None:
    assert set(flowstone_async.__all__) <= set(dir(flowstone_async))
