"""The extra `aws`: named where it is missing, and loaded by nothing but reading."""

from __future__ import annotations

import sys

import pytest

from flowstone_async.errors import ConfigError
from flowstone_async.sources import S3, DynamoDB
from flowstone_async.sources.reading import read_pages


@pytest.mark.parametrize("source", [S3("b"), DynamoDB(dict, "t")], ids=["S3", "DynamoDB"])
async def test_a_missing_driver_is_a_problem_that_names_the_extra(
    source: S3 | DynamoDB[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """READ-15: of the definition, before anything is read; test_public_names.py shows that nothing imports it."""
    monkeypatch.setitem(sys.modules, "aiobotocore", None)
    (problem,) = source.problems()
    name = type(source).__name__
    assert problem == f'{name} needs aiobotocore, which is not installed: pip install "flowstone_async[aws]"'
    with pytest.raises(ConfigError, match=r"flowstone_async\[aws\]"):
        await anext(read_pages(source))
