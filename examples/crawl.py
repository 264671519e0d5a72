"""Check all pages of a site for links that lead nowhere.

    flowstone run examples/crawl.py report --param sitemap=https://www.example.com/sitemap.xml

Up to twenty pages are fetched at once, and from each host at most twenty in a second, by all processes that crawl on
this store. A page that cannot be reached, or is slow, is tried again later while others go on; one that is gone is not.
Either fails alone, and the report lists it. A crawl that was killed goes on with the pages that it had not fetched.
Needs httpx.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from html import unescape
from http import HTTPStatus
from urllib.parse import urldefrag, urljoin, urlsplit

import httpx

from flowstone_async import Cache, Context, Gathered, Pipeline, Rate, Retry

LOCATION = re.compile(r"<loc>\s*([^<\s]+)")
LINK = re.compile(r"""<a\s[^>]*href\s*=\s*["']([^"']+)""", re.IGNORECASE)
TITLE = re.compile(r"<title>\s*(.*?)\s*</title>", re.IGNORECASE | re.DOTALL)


@dataclass
class Crawl:
    """What is crawled."""

    sitemap: str


class Busy(Exception):
    """The server can serve this page, but not now."""


@dataclass
class Page:
    """What a page is."""

    title: str
    size: int
    links: list[str]


@dataclass
class Report:
    """What a site is.

    Attributes:
        untitled: Addresses of pages without a title.
        unreachable: Address of a page that could not be fetched -> why, and which pages link to it.
    """

    pages: int
    size: int
    untitled: list[str]
    unreachable: dict[str, tuple[str, list[str]]]


pipe = Pipeline("crawl", params=Crawl, cache=Cache(ttl="1h"))


@pipe.resource
async def client() -> AsyncGenerator[httpx.AsyncClient]:
    """Keep connections open for as long as the engine is."""
    async with httpx.AsyncClient(follow_redirects=True, timeout=10) as opened:
        yield opened


@pipe.asset(retry=Retry(3))
async def addresses(params: Crawl, client: httpx.AsyncClient) -> list[str]:
    """Fetch the site's own list of its pages."""
    answer = (await client.get(params.sitemap)).raise_for_status()
    return [unescape(found) for found in LOCATION.findall(answer.text)]


@pipe.scatter(
    addresses,
    max_concurrent=20,
    timeout="30s",
    retry=Retry(4, initial="500ms", on=(Busy, httpx.TransportError, TimeoutError)),
    tolerate=0.2,
)
async def pages(url: str, client: httpx.AsyncClient, ctx: Context) -> Page:
    """Fetch one page."""
    async with ctx.limit(f"crawl:{urlsplit(url).netloc}", Rate(20, per="1s")):
        answer = await client.get(url)
    if answer.status_code == HTTPStatus.TOO_MANY_REQUESTS or answer.is_server_error:
        raise Busy(f"{answer.status_code} {answer.reason_phrase}")
    text, title = answer.raise_for_status().text, TITLE.search(answer.text)
    links = {urldefrag(urljoin(url, link)).url for link in LINK.findall(text)}
    return Page(title[1] if title else "", len(answer.content), sorted(links))


@pages.gather
async def report(results: Gathered[Page]) -> Report:
    """Put the pages together."""
    linked, untitled, size = defaultdict[str, list[str]](list), list[str](), 0
    async for url, page in results.items():
        size += page.size
        if not page.title:
            untitled.append(url)
        for link in page.links:
            linked[link].append(url)
    unreachable = {each.key: (each.message, linked[each.key]) async for each in results.failures()}
    return Report(results.succeeded, size, untitled, unreachable)
