"""Telling people that something waits for them: notifiers for `notify=` of approvals.

A notifier is any async function that takes an `ApprovalRequested`; these are ready-made. Addresses and tokens of theirs
are never shown, nor part of what a failure says.
"""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, cast
from urllib.parse import urlsplit

import anyio.to_thread

from flowstone_async.approvals import ApprovalRequested, Notifier
from flowstone_async.errors import ConfigError, FlowstoneError

SLACK = "https://slack.com/api/chat.postMessage"
_TIMEOUT = 20.0
_LONGEST = 3_000

__all__ = ["apprise", "slack", "webhook"]


def webhook(url: str, *, headers: Mapping[str, str] | None = None) -> Notifier:
    """Return a notifier that POSTs the request as JSON.

    Args:
        url: Where to.
        headers: Sent with it, such as an `Authorization`.

    Raises:
        ConfigError: It is no address of http or https.

    Example:
        >>> notify = [webhook("https://hooks.example.org/approvals")]
    """
    _checked(url)
    more = dict(headers or {})

    async def notify(requested: ApprovalRequested) -> None:
        await _post(url, _plain(requested), more)

    return notify


def slack(channel: str, *, token: str | None = None, url: str = SLACK) -> Notifier:
    """Return a notifier that writes to a channel of Slack as a bot of yours.

    Args:
        channel: `"#deploys"`, or the id of one.
        token: Of the bot (`chat:write`); without it that in `SLACK_BOT_TOKEN`, read when it is needed.
        url: Of `chat.postMessage`.

    Raises:
        ConfigError: The channel is no text.

    Example:
        >>> notify = [slack("#deploys")]
    """
    if not isinstance(channel, str) or not channel:
        raise ConfigError(f"slack({channel!r}) takes the name of a channel", hint='Write slack("#deploys").')
    _checked(url)

    async def notify(requested: ApprovalRequested) -> None:
        bearer = token or os.environ.get("SLACK_BOT_TOKEN")
        if not bearer:
            raise ConfigError("slack() has no token", hint="Give token=, or set SLACK_BOT_TOKEN.")
        body = {"channel": channel, "text": _text(requested), "unfurl_links": False}
        said = await _post(url, body, {"Authorization": f"Bearer {bearer}"})
        answer: Any = json.loads(said or b"{}")
        if not answer.get("ok"):
            raise FlowstoneError(f"Slack has not taken the message: {answer.get('error', 'no reason given')}")

    return notify


def apprise(*urls: str) -> Notifier:
    """Return a notifier that tells services by the addresses of Apprise, such as `mailto://` and `tgram://`.

    It needs the package `apprise` (`flowstone_async[notify]`), which is imported when somebody is told.

    Example:
        >>> notify = [apprise("mailto://user:password@example.org")]
    """
    if not urls or not all(isinstance(each, str) and each for each in urls):
        raise ConfigError("apprise() takes addresses of Apprise", hint='Write apprise("mailto://...").')

    async def notify(requested: ApprovalRequested) -> None:
        try:
            import apprise as library  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ConfigError(
                "apprise() needs a package that is not here", hint="Install it: pip install 'flowstone_async[notify]'."
            ) from error
        teller = cast("Any", library).Apprise()
        for each in urls:
            if not teller.add(each):
                raise ConfigError(
                    "apprise() was given an address that Apprise does not know",
                    hint="Its documentation lists what they are like.",
                )
        if not await teller.async_notify(title=f"Approval: {requested.asset}", body=_text(requested)):
            raise FlowstoneError("Apprise could not tell all of its addresses")

    return notify


def _checked(url: object) -> None:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            "a notifier was given what is no address of http or https",
            hint='Give the whole of it: webhook("https://hooks.example.org/approvals").',
        )


def _plain(requested: ApprovalRequested) -> Mapping[str, Any]:
    return {name: value for name, value in asdict(requested).items() if value is not None}


def _text(requested: ApprovalRequested) -> str:
    where = "" if requested.partition is None else f" [{requested.partition}]"
    where += "" if requested.item is None else f", item {json.dumps(requested.item, ensure_ascii=False)[:_LONGEST]}"
    lines = [requested.text, f"{requested.pipeline}.{requested.asset}{where}, request {requested.id}"]
    if requested.escalation is not None:
        lines.insert(0, f"Nobody has decided since {requested.opened_at:%Y-%m-%d %H:%M} UTC.")
    if requested.show is not None:
        lines.append(json.dumps(requested.show, ensure_ascii=False, indent=2)[:_LONGEST])
    if requested.roles:
        lines.append(f"for {', '.join(requested.roles)}")
    if requested.due is not None:
        lines.append(f"until {requested.due:%Y-%m-%d %H:%M} UTC")
    if requested.url is not None:
        lines.append(f"To decide: {requested.url}")
    return "\n".join(lines)


async def _post(url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    data = json.dumps(body, default=str).encode()
    request = urllib.request.Request(  # noqa: S310 - checked
        url, data=data, headers={"Content-Type": "application/json", **headers}, method="POST"
    )
    return await anyio.to_thread.run_sync(_sent, request, abandon_on_cancel=True)


def _sent(request: urllib.request.Request) -> bytes:
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - checked
            return answer.read(1 << 20)
    except urllib.error.HTTPError as error:
        error.close()
        raise FlowstoneError(f"{urlsplit(request.full_url).hostname} answered with status {error.code}") from None
    except OSError as error:
        raise FlowstoneError(f"{urlsplit(request.full_url).hostname} cannot be reached: {error}") from None
