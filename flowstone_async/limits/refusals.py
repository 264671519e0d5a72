"""The errors of limits."""

from __future__ import annotations

from flowstone_async.errors import ConfigError, LeaseLost, RateLimited, SlotTimeout, StoreUnavailable
from flowstone_async.limits.rate import Pace, Rate


def rate_limited(
    key: str, pace: Pace | None, *, max_wait: float, waited: float, after: float, ahead: int
) -> RateLimited:
    """No permit can come in time.

    Args:
        key: Of the limit.
        pace: What it is.
        max_wait: Seconds that the caller would wait.
        waited: Seconds that it has waited.
        after: Seconds after which one may come.
        ahead: How many wait before it.
    """
    limit = "" if pace is None else f"; the limit is {pace}"
    line = f", and {ahead} wait before it" if ahead else ""
    facts = {} if pace is None else {"n": pace.n, "per": pace.per, "burst": pace.burst}
    return RateLimited(
        f"limit {key!r} can give no permit within {max_wait:g} s: the next comes after {after:.3g} s at the earliest"
        f"{line}{limit}",
        details={"key": key, "max_wait": max_wait, "waited": waited, "after": after, "ahead": ahead, **facts},
        hint="Wait longer (max_wait=), or ask for less; limits.status() shows who uses it up.",
    )


def slot_timeout(key: str, n: int | None, max_wait: float, blocked: float) -> SlotTimeout:
    """No slot came free in time.

    Args:
        key: Of the limit.
        n: How many there are.
        max_wait: Seconds that the caller would wait.
        blocked: Seconds for which none is given, whatever is free.
    """
    why = f"it gives none for {blocked:.3g} s" if blocked else f"all {n} are held" if n is not None else "it has none"
    return SlotTimeout(
        f"no slot of {key!r} came free within {max_wait:g} s: {why}",
        details={"key": key, "max_wait": max_wait, "slots": n, "blocked": blocked},
        hint="Wait longer (max_wait=), or raise the number; limits.status() shows who holds them.",
    )


def bad_key(key: object) -> ConfigError:
    """A key is none."""
    return ConfigError(f"limit {key!r}: a key is text of 1 to 500 characters, without NUL", hint="Give such a text.")


def bad_limit(value: object, *, what: str) -> ConfigError:
    """Something is neither a rate nor a number of slots."""
    return ConfigError(
        f"{what}={value!r}", hint='Give a Rate, such as Rate(60, per="1m"), or a whole number of slots from 1.'
    )


def keyed(key: str) -> ConfigError:
    """A rate by item was given where there are no items."""
    return ConfigError(
        f"the Rate of limit {key!r} has key=, which takes the items of a scatter",
        hint="Leave it out here, and name the limit for what it limits.",
    )


def unknown(key: str, what: str, known: list[str]) -> ConfigError:
    """A limit was named that nobody declared or set."""
    kind, argument = ("rate", 'Rate(60, per="1m")') if what == "rate" else ("number of slots", "4")
    listed = f" Declared here are: {', '.join(map(repr, known))}." if known else ""
    return ConfigError(
        f"no limit is called {key!r}, and no {kind} was given.{listed}",
        hint=f"Declare it, Engine(limits={{{key!r}: {argument}}}), or give the {kind} with the call.",
    )


def differs(key: str, given: object, declared: Rate | int) -> ConfigError:
    """A limit is declared, and a call says something else."""
    return ConfigError(
        f"limit {key!r} is declared as {declared!r}, and the call says {given!r}",
        hint="Leave it out of the call, or use another key.",
    )


def other_kind(key: str, limit: Rate | Pace | int) -> ConfigError:
    """A limit is of the other kind."""
    if isinstance(limit, int):
        text, hint = f"is a number of slots, {limit}, and no rate", "Use slots(), with_slot() or acquire()."
    else:
        shown = limit if isinstance(limit, Pace) else limit.pace
        text, hint = f"is a rate, {shown}, and has no slots", "Use limit(), with_limit() or check()."
    return ConfigError(f"limit {key!r} {text}", hint=hint)


def no_lease() -> ConfigError:
    """A slot was asked for by an engine that has no lease."""
    return ConfigError(
        "this engine holds no lease, so that it can hold no slot: nobody could tell that it has died",
        hint="Give direct= a DSN past any pooler, or give the DSN as store=; rates need no lease.",
    )


def lease_lost() -> StoreUnavailable:
    """A slot was asked for by an engine that has lost its lease."""
    return StoreUnavailable(
        "this engine has lost its lease, so that it can hold no slot now",
        hint="It comes back as soon as the store answers: try again then.",
    )


def slot_lost(key: str) -> LeaseLost:
    """An engine lost its lease while something held a slot."""
    return LeaseLost(
        f"the slot of {key!r} was lost with the engine's lease, and may be held by somebody else now",
        hint="What ran in it was cancelled: do it again.",
    )


def left() -> ConfigError:
    """Something was asked of an engine that was left."""
    return ConfigError("the engine has been left", hint="Use its limits inside `async with Engine(...)`.")


def elsewhere() -> ConfigError:
    """Limits were used in a thread or process of a body."""
    return ConfigError(
        "limits are waited for on the event loop of their engine, and this is another",
        hint="Use them in an `async def` body.",
    )
