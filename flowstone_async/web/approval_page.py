"""The page that a link in a message leads to: HTML without scripts, that shows a request and asks for a decision."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from html import escape

from flowstone_async.web.approvals import Approval

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    # Without a referrer some browsers hide where a form was sent from, which the app asks for.
    "Referrer-Policy": "same-origin",
}
_LONGEST = 4_096


def request_page(found: Approval, csrf: str, person: str | None) -> str:
    """Return the page of a request that is pending.

    Args:
        found: The request.
        csrf: What the page sends along.
        person: Who is logged in; None if that is not known.
    """
    return _html(found.text, _request(found, csrf, person))


def message_page(title: str, *lines: str) -> str:
    """Return a page that says something."""
    return _html(title, (f"<p>{escape(each)}</p>" for each in lines))


def written(found: Approval) -> str:
    """Return in a sentence what became of a request."""
    if found.state == "pending":
        return f"{found.text!r} waits for a decision"
    at = "" if found.decided_at is None else f" at {_time(found.decided_at)}"
    by = "" if found.by is None else f" by {found.by}"
    return f"the request is {found.state}{by}{at}"


def form_text(found: Approval) -> str:
    """Return the form as the page proposes it; empty if nothing is proposed."""
    return "" if found.initial is None else json.dumps(found.initial, ensure_ascii=False, indent=2)


def _request(found: Approval, csrf: str, person: str | None) -> Iterator[str]:
    where = "" if found.partition is None else f" [{found.partition}]"
    where += "" if found.item is None else f", item {json.dumps(found.item, ensure_ascii=False)}"
    yield f"<p>{escape(f'{found.pipeline}.{found.asset}{where}')}</p>"
    if found.show is not None:
        yield f"<pre>{_cut(found.show)}</pre>"
    if found.due is not None:
        yield f"<p>Until {_time(found.due)}.</p>"
    if found.roles:
        yield f"<p>For {escape(', '.join(found.roles))}.</p>"
    if person is not None:
        yield f"<p>You are {escape(person)}.</p>"
    yield '<form method="post">'  # to where the page came from: the link stands nowhere in it
    yield f'<input type="hidden" name="csrf" value="{escape(csrf)}">'
    if found.form_schema is not None or found.initial is not None:
        yield f'<p><label>Form, as JSON<br><textarea name="form" rows="12" cols="80">\n{escape(form_text(found))}'
        yield "</textarea></label></p>"
    if found.form_schema is not None:
        yield f"<details><summary>What it may hold</summary><pre>{_cut(found.form_schema)}</pre></details>"
    yield '<p><label>Reason <input name="reason" size="60"></label></p>'
    yield '<p><button name="decision" value="approve">Approve</button> '
    yield '<button name="decision" value="reject">Reject</button></p></form>'


def _html(title: str, lines: Iterator[str]) -> str:
    head = f'<head><meta charset="utf-8"><meta name="robots" content="noindex"><title>{escape(title)}</title></head>'
    return f'<!doctype html><html lang="en">{head}<body><h1>{escape(title)}</h1>{"".join(lines)}</body></html>'


def _cut(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return escape(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")


def _time(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"
