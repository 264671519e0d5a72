"""Assets that ask people (APPR-01..APPR-14). Memory and Postgres."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

import pytest

from flowstone_async import (
    After,
    ApprovalRequested,
    Ask,
    ConfigError,
    Context,
    Decision,
    DependencyFailed,
    Engine,
    Extend,
    GateClosed,
    Keys,
    NotAllowed,
    Pipeline,
    Rejected,
    Retry,
    WaitingApproval,
)
from flowstone_async._engine.approving.deciding import answer, decide
from flowstone_async._engine.gates.sender import Sender
from flowstone_async.definition.approval_decorator import ApprovalDecorator
from flowstone_async.types import AssetKey
from tests.support.crash import kill, look_for_orphans
from tests.support.engines import OpenEngine
from tests.support.gate import soon
from tests.support.waits import runs_of

SECRET: Any = {"secret": b"s" * 32, "poll": "50ms"}


@dataclass
class Build:
    sha: str


@dataclass
class Release:
    note: str


def releasing(calls: Counter[str], **options: Any) -> tuple[Pipeline, Any, Any]:
    """Return a pipeline that builds, asks, and deploys."""
    pipe = Pipeline("release")

    @pipe.asset
    async def build() -> Build:
        calls["build"] += 1
        return Build(f"sha{calls['build']}")

    @cast("ApprovalDecorator[Release]", pipe.approval(form=Release, **options))
    async def approve(build: Build) -> str | Ask | None:
        calls["approve"] += 1
        return Ask(f"Deploy {build.sha}?", show={"sha": build.sha})

    @pipe.asset
    async def deploy(approve: Decision[Release]) -> str:
        return f"{approve.inputs['build'].sha} by {approve.by}: {approve.form.note}"

    return pipe, approve, deploy


async def test_it_waits_and_goes_on(open_engine: OpenEngine):
    """APPR-02, APPR-03, APPR-04, APPR-06, APPR-14: nothing is held, nobody is asked twice."""
    calls = Counter[str]()
    pipe, approve, deploy = releasing(calls)
    engine = await open_engine(pipe, **SECRET)
    for _ in range(2):
        with pytest.raises(WaitingApproval, match="it waits for 'approve' of asset 'approve'"):
            await soon(engine.run(deploy))
    assert not runs_of(engine)
    status = await engine.status(approve)
    assert (status.state, status.has_value) == ("waiting", False)
    assert status.waiting_for is not None
    [found] = await engine.approvals.pending()
    assert (found.text, found.show) == ("Deploy sha1?", {"sha": "sha1"})
    assert found.id in status.waiting_for
    await engine.run("build", force=True)
    said = await engine.approve(approve, by="alice", form=Release("ok"))
    assert await soon((await engine.find(found.run_id)).result()) == "sha1 by alice: ok"
    assert calls == {"build": 2, "approve": 1}
    decision = await engine.get(approve)
    assert decision == said
    assert (decision.by, decision.form, decision.inputs) == ("alice", Release("ok"), {"build": Build("sha1")})


@pytest.mark.not_in("evict", reason="its next wait is what evicts")
async def test_a_pipeline_goes_on_by_itself():
    """APPR-04: `pipe.approve` drives the rest of its run to the end, or to the next wait."""
    calls = Counter[str]()
    pipe, approve, deploy = releasing(calls)

    @pipe.approval
    async def again(deploy: str) -> str:
        return f"{deploy}: really?"

    @pipe.asset
    async def announce(deploy: str, again: Decision[None]) -> str:
        return f"{deploy}, {again.by}"

    with pytest.raises(WaitingApproval) as caught:
        await soon(pipe.run(announce))
    [gate] = caught.value.details["gates"]  # pyright: ignore[reportGeneralTypeIssues]
    await soon(pipe.approve(gate["gate"], by="alice", form=Release("ok")))
    assert (await pipe.status(again)).state == "waiting"
    assert await pipe.get(deploy) == "sha1 by alice: ok"
    await soon(pipe.approve(again, by="bob"))
    assert await pipe.get(announce) == "sha1 by alice: ok, bob"
    assert (await pipe.status(approve)).state == "completed"
    assert calls == {"build": 1, "approve": 1}


async def test_a_pipeline_that_says_no():
    pipe, approve, deploy = releasing(Counter())
    with pytest.raises(WaitingApproval):
        await soon(pipe.run(deploy))
    await soon(pipe.reject(approve, by="bob", reason="friday"))
    status = await pipe.status(approve)
    assert isinstance(status.error, Rejected)
    assert (status.state, status.error.by, status.error.reason) == ("failed", "bob", "friday")
    assert (await pipe.status(deploy)).state == "failed"


async def test_it_goes_on_elsewhere_after_everything_was_restarted(open_engine: OpenEngine):
    """APPR-04, APPR-13, APPR-14: the question is asked and people are told once, whoever goes on with it."""
    calls, told = Counter[str](), list[ApprovalRequested]()

    async def tell(requested: ApprovalRequested) -> None:
        told.append(requested)

    pipe, approve, deploy = releasing(calls, notify=[tell])
    first = await open_engine(pipe, **SECRET)
    with pytest.raises(WaitingApproval):
        await soon(first.run(deploy))
    await first.__aexit__(None, None, None)
    second = await open_engine(pipe, **SECRET)
    [request] = await second.approvals.pending(asset=approve)
    assert request.id == told[0].id
    await second.approve(request.id, by="alice", form={"note": "ok"})
    assert await soon(second.run(deploy)) == "sha1 by alice: ok"
    assert (calls, len(told)) == ({"build": 1, "approve": 1}, 1)


async def test_a_worker_that_dies_while_it_waits(open_engine: OpenEngine):
    """APPR-04, APPR-14."""
    calls, told = Counter[str](), list[ApprovalRequested]()
    hold = asyncio.Event()

    async def tell(requested: ApprovalRequested) -> None:
        told.append(requested)

    pipe, approve, deploy = releasing(calls, notify=[tell])

    @pipe.asset
    async def beside() -> int:
        await hold.wait()
        return 1

    dying, living = await open_engine(pipe, **SECRET), await open_engine(pipe, **SECRET, slots=0)
    run = await dying.submit(deploy, beside)
    store = dying._live().store
    while not any(each.kind == "notify" for each in await _recorded(store, run.id)):
        await asyncio.sleep(0)
    await kill(dying)
    hold.set()
    await look_for_orphans(living)
    await living.approve(approve, by="alice", form=Release("ok"))
    assert await soon((await living.find(run.id)).result()) == ("sha1 by alice: ok", 1)
    assert (calls["approve"], len(told)) == (1, 1)


async def _recorded(store: Any, run_id: str) -> list[Any]:
    return [
        each for gate in await store.gates.of_run(run_id) for each in await store.steps.recorded(run_id, gate.gate.body)
    ]


async def test_nobody_need_be_asked(open_engine: OpenEngine):
    """APPR-01: no request, no message; dependants go on."""
    pipe, told = Pipeline("release"), list[ApprovalRequested]()

    async def tell(requested: ApprovalRequested) -> None:
        told.append(requested)

    @pipe.approval(form=Release, notify=[tell])
    async def approve() -> str | None:
        return None

    @pipe.asset
    async def deploy(approve: Decision[Release]) -> Decision[Release | None]:
        return approve

    engine = await open_engine(pipe, **SECRET)
    assert await soon(engine.run(deploy)) == Decision(approved=True, needed=False, by=None)
    assert (told, await engine.approvals.pending()) == ([], ())


async def test_a_no_ends_what_depends_on_it(open_engine: OpenEngine):
    """APPR-05: never tried again; another run asks again."""
    calls = Counter[str]()
    pipe, approve, deploy = releasing(calls, retry=Retry(attempts=3, backoff="none"))
    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(WaitingApproval):
        await soon(engine.run(deploy))
    run = (await engine.approvals.pending())[0].run_id
    await engine.reject(approve, by="bob")
    with pytest.raises(DependencyFailed) as caught:
        await soon((await engine.find(run)).result())
    assert isinstance(caught.value.__cause__, Rejected)
    assert (await engine.status(approve)).state == "failed"
    with pytest.raises(WaitingApproval):
        await soon(engine.run(deploy))
    assert calls == {"build": 1, "approve": 2}


@pytest.mark.parametrize("answer", ["yes", "no", "silence"])
async def test_what_is_made_of_the_answer(open_engine: OpenEngine, answer: str):
    """APPR-05, APPR-06: of the decision and what was shown; a failure is tried again, and nobody is asked again."""
    calls, pipe = Counter[str](), Pipeline("release")

    @pipe.asset
    async def build() -> Build:
        return Build("sha1")

    @pipe.asset
    async def extra() -> int:
        return 7

    @pipe.approval(
        form=Release,
        timeout="20ms" if answer == "silence" else "1h",
        retry=Retry(attempts=2, backoff="none"),
    )
    async def approve(build: Build, ctx: Context) -> str:
        calls["asked"] += 1
        return f"Deploy {build.sha}?"

    @approve.on_approve
    async def approved(decision: Decision[Release], build: Build, extra: int) -> str:
        calls["approved"] += 1
        if calls["approved"] == 1:
            raise RuntimeError("once more")
        return f"{build.sha} {decision.form.note} {extra}"

    @approve.on_reject
    async def rejected(answer: Decision[Any], extra: int) -> int:
        assert not answer.approved
        return extra if answer.by == "bob" else -extra

    @pipe.asset
    async def deploy(approve: str | int) -> str:
        return f"deployed {approve}"

    engine = await open_engine(pipe, **SECRET)
    if answer == "silence":
        assert await soon(engine.run(deploy, on_wait="wait")) == "deployed -7"
        return
    with pytest.raises(WaitingApproval):
        await soon(engine.run(deploy))
    if answer == "yes":
        await engine.approve(approve, by="alice", form=Release("ok"))
    else:
        await engine.reject(approve, by="bob")
    assert await soon(engine.run(deploy)) == ("deployed sha1 ok 7" if answer == "yes" else "deployed 7")
    assert calls == ({"asked": 1, "approved": 2} if answer == "yes" else {"asked": 1})


async def test_a_form_that_is_proposed(open_engine: OpenEngine):
    """APPR-11: by a function of dependencies; both versions are kept, and the record names who edited it."""
    pipe = Pipeline("release")

    @pipe.asset
    async def build() -> Build:
        return Build("sha1")

    async def proposed(build: Build) -> Release:
        return Release(f"ships {build.sha}")

    @pipe.approval(form=Release, initial=proposed)
    async def approve() -> str:
        return "Deploy?"

    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(WaitingApproval):
        await soon(engine.run(approve))
    [found] = await engine.approvals.pending()
    assert found.initial == {"note": "ships sha1"}
    assert found.schema is not None
    assert set(found.schema["properties"]) == {"note"}
    await engine.approve(approve, by="alice", form=Release("ships today"))
    decision = await soon(engine.run(approve))
    assert (decision.modified, decision.form, decision.initial) == (True, Release("ships today"), Release("ships sha1"))
    current = (await engine._live().store.states([_key(engine, "approve")]))[_key(engine, "approve")].current
    assert current is not None
    assert current.metadata == {"approved_by": "alice", "modified": True}


def _key(engine: Engine, name: str) -> Any:
    return AssetKey(next(iter(engine._live().catalogs)), name)


async def test_a_run_that_is_cancelled_closes_its_request(open_engine: OpenEngine):
    """APPR-07, APPR-14."""
    pipe, _approve, deploy = releasing(Counter())
    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(WaitingApproval):
        await soon(engine.run(deploy))
    [found] = await engine.approvals.pending()
    await (await engine.find(found.run_id)).cancel()
    assert await engine.approvals.pending() == ()
    assert (await engine.approvals.get(found.id)).state == "cancelled"
    with pytest.raises(GateClosed) as caught:
        await engine.approve(found.id, by="alice", form=Release("ok"))
    assert caught.value.details["state"] == "cancelled"


async def test_each_partition_asks_for_itself(open_engine: OpenEngine):
    """APPR-14, APPR-17: by page, nearest deadline first."""
    pipe = Pipeline("release")

    @pipe.approval(partitions=Keys("a", "b", "c"), timeout=False)
    async def approve(partition: str) -> str:
        return f"Deploy {partition}?"

    engine = await open_engine(pipe, **SECRET)
    for partition in "abc":
        with pytest.raises(WaitingApproval):
            await soon(engine.run(approve, partition=partition))
    first = await engine.approvals.pending(limit=2)
    rest = await engine.approvals.pending(after=first[-1].id)
    assert sorted(each.text for each in (*first, *rest)) == ["Deploy a?", "Deploy b?", "Deploy c?"]
    assert {each.due for each in (*first, *rest)} == {None}
    await engine.approve(approve, by="alice", partition="b")
    assert (await soon(engine.run(approve, partition="b"))).by == "alice"
    assert sorted(str(each.partition) for each in await engine.approvals.pending()) == ["a", "c"]


async def test_why_it_waits(open_engine: OpenEngine):
    """RUN-23: `status` and `why` name what it waits for."""
    pipe, approve, deploy = releasing(Counter())
    engine = await open_engine(pipe, **SECRET)
    report = await soon(engine.report(deploy))
    assert (report.state, report["approve"].state) == ("waiting", "waiting")
    [found] = await engine.approvals.pending()
    why = await engine.why(approve)
    assert (why.state, why.because) == (
        "waiting",
        f"run {found.run_id} waits for approval 'Deploy sha1?' ({found.id})",
    )
    assert (await engine.status("build")).state == "completed"


async def test_who_may_decide(open_engine: OpenEngine):
    """APPR-12: asked of users who have logged in; a call in process is trusted."""
    pipe, _approve, deploy = releasing(Counter(), roles=["release"])
    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(WaitingApproval):
        await soon(engine.run(deploy))
    [found] = await engine.approvals.pending(role="release")
    assert await engine.approvals.pending(role="other") == ()
    session = engine._live()
    said = answer(approved=True, by="eve", form=Release("mine"), roles=["other"])
    with pytest.raises(NotAllowed, match="release"):
        await decide(session, found.id, None, said, Sender(way="rest"))
    said = answer(approved=True, by="ann", form_json=b'{"note": "ok"}', roles=["other", "release"])
    assert (await decide(session, found.id, None, said, Sender(way="rest")))[0].by == "ann"


def test_the_question_alone_is_a_plain_call():
    pipe, approve, _ = releasing(Counter())
    assert asyncio.run(approve(build=Build("x"))) == Ask("Deploy x?", show={"sha": "x"})
    assert pipe.asset_info(approve).kind == "approval"
    assert pipe.asset_info(approve).has_approval


async def tell_nobody(_: ApprovalRequested) -> None: ...


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"timeout": "soon"}, "timeout='soon'"),
        ({"timeout": "1h", "escalate": [After("2h", to=["boss"])]}, "After('2h') is not before timeout='1h'"),
        ({"escalate": [After("25h", to=["boss"])]}, "is not before timeout='24h'"),
        ({"escalate": ["4h"]}, "escalate=['4h']: give a list of After"),
        ({"escalate": [After("1h")]}, "it changes nothing"),
        ({"roles": "release"}, "roles='release': give a list"),
        ({"notify": tell_nobody}, "give a list of async functions"),
        ({"on_timeout": "maybe"}, "on_timeout='maybe': allowed are"),
        ({"on_timeout": Extend("0s")}, "Extend='0s'"),
        ({"on_timeout": Extend("1h", times=0)}, "Extend(times=0)"),
        ({"timeout": False, "on_timeout": "approve"}, "timeout=False never expires"),
        ({"form": 7}, "form=7: give a pydantic model"),
        ({"initial": lambda: 7}, "there is none: say form="),
        ({"form": Release, "initial": 7}, "initial=7: give a function"),
    ],
)
def test_options_that_are_wrong_are_found_when_it_is_defined(options: Any, problem: str):
    """APPR-10: an `After` that is later than `timeout` among them."""
    pipe = Pipeline("release")

    @cast("ApprovalDecorator[Any]", pipe.approval(**options))
    async def approve() -> str:
        return "Deploy?"

    [found] = pipe.problems()
    assert (found.code, found.asset) == ("FS109", "approve")
    assert problem in found.message


def test_what_is_no_question():
    pipe = Pipeline("release")

    @pipe.approval  # pyright: ignore[reportArgumentType]
    def approve() -> str:
        return "Deploy?"

    assert [each.code for each in pipe.problems()] == ["FS109"]
    with pytest.raises(TypeError, match="unexpected keyword argument 'run_in'"):
        cast("Any", pipe.approval)(run_in="thread")


def test_functions_beside_the_question_are_checked_like_it():
    pipe, approve, _ = releasing(Counter())

    @approve.on_approve
    async def approved(decision: Decision[Release], nothing: int) -> str:
        return ""

    [problem] = [each for each in pipe.problems() if each.code == "FS101"]
    assert "on_approve approved(nothing: int)" in problem.message
    with pytest.raises(ConfigError, match="has two functions for on_approve"):
        approve.on_approve(approved)


@pytest.mark.parametrize("said", ["", 7, "x" * 10_001])
async def test_a_question_is_text(open_engine: OpenEngine, said: Any):
    pipe = Pipeline("release")

    @pipe.approval
    async def approve() -> str:
        return said

    engine = await open_engine(pipe, **SECRET)
    with pytest.raises(ConfigError, match="asks a question"):
        await soon(engine.run(approve))
