"""What a params type owes to the runs of its pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class RunParams(ABC):
    """How the params of a pipeline's runs are checked and stored."""

    @abstractmethod
    def parse(self, given: object) -> Any:
        """Return params of the declared type, the caller's object untouched."""

    @abstractmethod
    def dump(self, params: Any) -> str:
        """Return params as the JSON text that is stored with a run."""

    @abstractmethod
    def secrets(self, params: Any) -> tuple[str, ...]:
        """Return the names of the fields that hold secrets."""

    @abstractmethod
    def defaults_json(self) -> str | None:
        """Return the params of a run that gives none, as JSON text; None where fields are required."""

    @abstractmethod
    def load(self, text: str) -> Any:
        """Return the params that were stored with a run, of the declared type."""
