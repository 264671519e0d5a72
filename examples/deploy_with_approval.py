"""Nothing goes to production before somebody has said yes: ask, say who may answer, deploy what was shown.

python examples/deploy_with_approval.py              # builds, asks, and leaves; nothing is held meanwhile
flowstone inbox examples/deploy_with_approval.py
flowstone approve examples/deploy_with_approval.py approve_production --by you --form '{"note": "ok"}'
python examples/deploy_with_approval.py              # goes on with what was decided, however much later
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from flowstone_async import After, ApprovalRequested, Ask, Decision, Engine, Pipeline, Rejected, WaitingApproval

pipe = Pipeline("deploys")


@dataclass
class Build:
    """What is to be deployed."""

    sha: str
    tests: int


@dataclass
class Release:
    """What whoever approves fills in."""

    note: str
    percent: int = 100


async def tell(requested: ApprovalRequested) -> None:
    """Tell people; notify.slack("#deploys") does so where they are."""
    print(f"asked: {requested.text} (request {requested.id})")


@pipe.asset
async def build() -> Build:
    return Build(sha="4f2a", tests=1312)


@pipe.approval(
    form=Release,
    roles=["release"],
    timeout="24h",
    notify=[tell],
    escalate=[After("4h", to=["oncall"], notify=[tell])],
)
async def approve_production(build: Build) -> Ask | None:
    if not build.tests:
        return None  # nothing to ask about: nothing is deployed either
    return Ask(f"Deploy {build.sha} to production?", show=build)


@pipe.asset
async def production(approve_production: Decision[Release]) -> str:
    shown: Build = approve_production.inputs["build"]
    if not approve_production.needed:
        return f"{shown.sha} has no tests: not deployed"
    form = approve_production.form
    return f"{shown.sha} is on {form.percent} % of production, says {approve_production.by}: {form.note}"


async def main() -> None:
    async with Engine(pipe) as engine:
        try:
            print(await engine.run(production))
        except WaitingApproval as waits:
            print(waits.message)
        except Rejected as refused:
            print(f"not deployed: {refused.message}")


if __name__ == "__main__":
    asyncio.run(main())
