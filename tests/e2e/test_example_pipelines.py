"""The pipelines in examples/ do what they say, by the command of their docstrings, against servers on loopback."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.commands import ROOT, flowstone
from tests.e2e.database import connected, gone, until
from tests.sources_aws.conftest import CREDENTIALS

BUCKET = "my-documents"
ROWS, PAGE = 3000, 1000
TABLE = f"""
CREATE TABLE line AS SELECT no::bigint AS id, 'customer ' || no % 7 AS customer, CASE no WHEN 5 THEN 'tree' ELSE 'book' END AS kind,
    100::numeric AS net, CASE WHEN no % 500 = 0 THEN 108 ELSE 107 END::numeric AS gross, 'issued' AS state
    FROM generate_series(1, {ROWS}) AS no;
ALTER TABLE line ADD PRIMARY KEY (id);
ANALYZE line;
CREATE FUNCTION open_to(id bigint) RETURNS boolean LANGUAGE plpgsql COST 10000 AS $$
BEGIN
    IF id > {2 * PAGE + 1} THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
    RETURN true;
END $$;
CREATE VIEW invoice AS SELECT * FROM line WHERE open_to(id);
"""
CHECKED = "SELECT sum(succeeded + failed) = $1 FROM flowstone.scatter_chunk"
READING = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%invoice%'"


def report_of(folder: Path, example: str, *words: str) -> Any:
    """Run an example to its end and return its report."""
    path = str(ROOT / "examples" / example)
    ended = flowstone(folder, "run", path, "report", "--store", "embedded:store", *words).end()
    assert ended.code == 0, ended
    return json.loads(flowstone(folder, "get", path, "report", "--store", "embedded:store", "--json").end().out)


# -- S3 ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A bucket with fifty texts, one more that is none, and a picture; and an environment that leads there."""
    from botocore.session import Session
    from moto.server import ThreadedMotoServer

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{host}:{port}", "BUCKET": BUCKET}.items():
        monkeypatch.setenv(name, value)
    client = Session().create_client("s3")
    client.create_bucket(Bucket=BUCKET)
    for number in range(50):
        client.put_object(Bucket=BUCKET, Key=f"texts/{number}.txt", Body=b"the end " * number)
    client.put_object(Bucket=BUCKET, Key="texts/odd.md", Body=b"\xff\xfe")
    client.put_object(Bucket=BUCKET, Key="texts/picture.png", Body=b"\xff\xfe")
    yield
    server.stop()


@pytest.mark.usefixtures("bucket", "store")
def test_the_documents_of_a_bucket_are_counted(folder: Path) -> None:
    """READ-11: endpoint and credentials are those of the environment; what is no text fails alone."""
    found = report_of(folder, "s3_documents.py")
    assert (found["documents"], found["words"]) == (50, 2 * sum(range(50)))
    assert found["longest"][:2] == [["texts/49.txt", 98], ["texts/48.txt", 96]]
    assert dict(found["most_common"]) == {"the": 1225, "end": 1225}
    assert list(found["unreadable"]) == ["texts/odd.md"]
    assert "can't decode byte" in found["unreadable"]["texts/odd.md"]


# -- Postgres ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("store")
async def test_invoices_are_checked_once_also_by_a_run_that_is_killed(folder: Path) -> None:
    """READ-07, READ-10: what was checked is not checked again, though it is not the same any more."""
    async with connected(folder) as sql:
        await sql.execute(TABLE)
        await sql.execute("SELECT pg_advisory_lock(1)")
        path = str(ROOT / "examples/postgres_rows.py")
        with flowstone(folder, "run", path, "report", "--store", "embedded:store") as program:
            await until(sql, "SELECT to_regclass('flowstone.scatter_chunk') IS NOT NULL")
            await until(sql, CHECKED, 2 * PAGE)
            reading = await until(sql, READING)
            program.kill()
        await sql.execute("UPDATE line SET gross = 0, customer = 'nobody' WHERE id <= $1", 2 * PAGE)
        await sql.execute("SELECT pg_advisory_unlock(1)")
        await gone(sql, reading)
        found = await asyncio.to_thread(report_of, folder, "postgres_rows.py")
    assert found["checked"] == ROWS - 1
    assert {number: Decimal(each) for number, each in found["wrong"].items()} == {
        str(number): 1 for number in range(500, ROWS + 1, 500)
    }
    owed = Counter(f"customer {number % 7}" for number in range(500, ROWS + 1, 500))
    assert {customer: Decimal(each) for customer, each in found["owed"].items()} == owed
    assert found["failed"] == {"5": "an item of 'excess' failed: KeyError: 'tree'"}


# -- a site -----------------------------------------------------------------------------------------------------------


class Site:
    """Thirty pages. One is gone, one is busy at first, and one breaks the first connection."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.address = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        try:
            [request, *_] = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            path = request.split()[1]
            self.asked[path] += 1
            if path != "/broken" or self.asked[path] > 1:
                status, body = self.answer(path)
                head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode() + body)
                await writer.drain()
        finally:
            writer.close()

    def answer(self, path: str) -> tuple[str, bytes]:
        """Return what is answered to a path."""
        if path == "/gone":
            return "404 Not Found", b""
        if path == "/busy" and self.asked[path] == 1:
            return "503 Service Unavailable", b""
        if path == "/sitemap.xml":
            paths = ["gone", "busy", "broken", *(f"page?a={number}&amp;b" for number in range(27))]
            return "200 OK", "".join(f"<url><loc>{self.address}/{path}</loc></url>" for path in paths).encode()
        return "200 OK", b"<p>" if path == "/busy" else b'<title>\nA page</title><a class=x href="/gone#here">'


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    """A site that is served."""
    site = Site()
    async with await asyncio.start_server(site.serve, "127.0.0.1", 0) as server:
        site.address = "http://127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        yield site


@pytest.mark.usefixtures("store")
async def test_a_site_is_crawled(folder: Path, site: Site) -> None:
    """SCAT-11, SCAT-13: a page that fails is tried again where that helps, and fails alone."""
    words = ("--param", f"sitemap={site.address}/sitemap.xml")
    found = await asyncio.to_thread(report_of, folder, "crawl.py", *words)
    assert (found["pages"], found["untitled"]) == (29, [f"{site.address}/busy"])
    [(gone, (why, linking))] = found["unreachable"].items()
    assert (gone, len(linking)) == (f"{site.address}/gone", 28)
    assert "404 Not Found" in why
    twice = {"/busy": 2, "/broken": 2}
    assert site.asked == {"/sitemap.xml": 1, "/gone": 1, **twice, **{f"/page?a={number}&b": 1 for number in range(27)}}


# -- jobs elsewhere ---------------------------------------------------------------------------------------------------


def test_remote_jobs_call_back_and_survive_a_restart(folder: Path, made: Path) -> None:
    """SIG-03, SIG-07, SIG-14: over the web side's own webhook; what was ordered is not ordered again."""
    subprocess.run(["cp", "-a", made, folder / ".flowstone"], check=True)
    words = [sys.executable, str(ROOT / "examples/remote_jobs.py"), "40"]
    ended = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 0, ended
    said = ended.stdout
    assert "40 jobs are ordered" in said
    [heard] = re.findall(r"(\d+) callbacks were heard; the worker was killed", said)
    assert 20 <= int(heard) < 40
    assert re.search(r"40 videos are there, after \d+ s; 0 were ordered again", said), said
