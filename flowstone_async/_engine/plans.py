"""Making plans for people, and applying them only while they hold."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flowstone_async._engine.session import Session
from flowstone_async._engine.targets import Target
from flowstone_async.definition.keys import encode_key
from flowstone_async.errors import PlanOutdated
from flowstone_async.planning.plan import Plan, PlanEntry, make_plan

Apply = Callable[[Plan, tuple[Target, ...], object, Any], Awaitable[Any]]


async def plan(
    session: Session,
    targets: Sequence[Target],
    partition: object,
    options: Mapping[str, Any],
    apply: Apply | None = None,
) -> Plan:
    """Return what a run would do and why."""
    request = session.request(targets, partition=partition, **options)
    prospect = await session.prospect(request)
    names = list(dict.fromkeys(unit.node.name for unit in prospect.units.all))
    durations = await session.services.store.durations(request.pipeline, names)
    made = make_plan(
        request.pipeline,
        prospect.units,
        prospect.verdicts,
        prospect.current,
        request.asked,
        durations,
        lambda node: prospect.catalog.runnable(node).code,
        request.concurrency,
    )
    if apply is None:
        return made

    def perform(planned: Plan) -> Awaitable[Any]:
        return apply(planned, tuple(targets), partition, options)

    return replace(made, perform=perform)


async def check_plan(
    session: Session, planned: Plan, targets: Sequence[Target], partition: object, options: Mapping[str, Any]
) -> None:
    """Compare a plan with what would be planned now.

    Raises:
        PlanOutdated: Something has changed; the error lists what.
    """
    now = await plan(session, targets, partition, options)
    before = {(each.asset, encode_key(each.partition)): each for each in planned.entries}
    after = {(each.asset, encode_key(each.partition)): each for each in now.entries}
    changed = [_change(name, before.get(name), after.get(name)) for name in {**before, **after}]
    found = [each for each in changed if each is not None]
    if found:
        raise PlanOutdated(
            f"the plan is outdated: {'; '.join(found)}", details={"changed": found}, hint="Plan again and look at it."
        )


def _change(name: tuple[str, str], before: PlanEntry | None, after: PlanEntry | None) -> str | None:
    entry = before or after
    asset = name[0] if entry is None or entry.partition is None else f"{name[0]} [{entry.partition}]"
    if before is None or after is None:
        return f"{asset} is {'no longer' if after is None else 'newly'} needed"
    if before.action != after.action:
        return f"{asset} would now {after.action} ({after.reason}), not {before.action}"
    if before.materialization != after.materialization:
        return f"{asset} was computed by another run"
    return None
