"""Gates of a body, as it makes them: `done = await ctx.signal(JobDone)`.

What they do is the engine's (`_engine/waits`); docs/adr/0010-waiting.md says what is on record of them, and why.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from flowstone_async.config import Duration, seconds
from flowstone_async.errors import ConfigError

M = TypeVar("M")
TIMEOUT = "1h"
LONGEST_NAME = 200


class Bound(Protocol):
    """What a gate is in a body that runs."""

    @property
    def id(self) -> str:
        """What names the gate: the same whenever the body is called in this run."""
        ...

    @property
    def token(self) -> str:
        """What the other side signals it with."""
        ...

    @property
    def url(self) -> str:
        """Where the other side may do so."""
        ...

    def wait(self) -> Coroutine[Any, Any, Any]:
        """Wait until it ends."""
        ...


class SignalGate(Generic[M]):
    """A gate: await it for the payload that somebody signals, or return it from a body that says so.

    Args:
        model: Type of the payload: a pydantic model, a dataclass, anything that can be stored; `type(None)` for none.
        token: What the other side calls it, where that chooses: 1 to 512 bytes of any text. Such a token is accepted
            by `engine.signal` and authenticated requests only, never by the public URL.
        timeout: How long it is open, from when it is waited for: 1 hour without it, False for ever.
        name: What it is called, for people, and what tells it from others of the body; that of the type without it.

    Raises:
        ConfigError: An option is wrong.
    """

    __slots__ = ("_bound", "_chosen", "model", "name", "timeout")

    def __init__(
        self,
        model: type[M],
        *,
        token: str | None = None,
        timeout: Duration | Literal[False] | None = None,
        name: str | None = None,
    ) -> None:
        self.model: Any = _model(model)
        self._chosen = _token(token)
        limit = TIMEOUT if timeout is None else timeout
        self.timeout = None if limit is False else seconds(limit, what="timeout")
        self.name = name_of_wait(name) if name is not None else getattr(model, "__name__", "signal")
        self._bound: Bound | None = None

    def bind(self, bound: Bound) -> None:
        """Make it a gate of a body that runs; the engine's side of it."""
        self._bound = bound

    def _live(self) -> Bound:
        if self._bound is None:
            raise ConfigError(
                "this gate belongs to no body yet",
                hint="Make it with ctx.signal(...), or return it from a body that is annotated `T | SignalGate[M]`.",
            )
        return self._bound

    @property
    def chosen(self) -> str | None:
        """The token that the other side chose."""
        return self._chosen

    @property
    def id(self) -> str:
        """What names the gate: the same whenever the body is called in this run."""
        return self._live().id

    @property
    def token(self) -> str:
        """What the other side signals it with; known before anything is recorded, and honoured from then on."""
        return self._live().token

    @property
    def url(self) -> str:
        """Where the other side may POST the payload, with nothing but this.

        Raises:
            ConfigError: The engine has no `base_url`, or the other side chose the token.
        """
        return self._live().url

    def __await__(self) -> Generator[Any, Any, M]:
        """Wait for the payload.

        Raises:
            TimedOut: Nobody signalled in time.
        """
        return self._live().wait().__await__()


@dataclass(frozen=True, slots=True)
class Rearm:
    """What `@asset.on_timeout` returns to wait on: the same token and URL are good until the new deadline.

    Args:
        timeout: How long the gate is open from now.

    Raises:
        ConfigError: It is no duration.

    Example:
        >>> Rearm("15m")
        Rearm(timeout='15m')
    """

    timeout: Duration

    def __post_init__(self) -> None:
        seconds(self.timeout, what="Rearm")


def _model(model: Any) -> Any:
    if model is None:
        raise ConfigError(
            "a gate was given None for the type of its payload",
            hint="Give the type, such as a model or a dataclass; type(None) for a signal that says nothing.",
        )
    return model


def _token(token: object) -> str | None:
    if token is not None and not isinstance(token, str):
        text = f"a gate was given a {type(token).__name__} for its token, which is text"
        raise ConfigError(text, hint="Give what the other side calls it, such as str(job.id).")
    return token


def bound_of(gate: SignalGate[Any]) -> Bound | None:
    """Return what a gate is in a body that runs, for whoever runs it; None if it belongs to none."""
    return gate._bound  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - of this module


def name_of_wait(name: object) -> str:
    """Return what a gate is called.

    Raises:
        ConfigError: It is no printable text of 1 to 200 characters.
    """
    if not isinstance(name, str) or not name or not name.isprintable() or len(name) > LONGEST_NAME:
        raise ConfigError(
            f"name={name!r}: a gate is called by printable text of 1 to {LONGEST_NAME} characters",
            hint="Leave it out, or say in a few words what is waited for; key= tells gates of one name apart.",
        )
    return name
