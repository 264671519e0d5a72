"""What can be told of a query before it is sent: what it begins with, how many statements and arguments it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

READS = ("SELECT", "WITH", "VALUES", "TABLE")
"""What a statement that only gives rows begins with."""

_TOKEN = re.compile(
    r"""
    (?P<text> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" )
  | (?P<comment> --[^\n]* | /\* )
  | (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
  | \$(?P<number> \d+ )
  | (?P<word> [^\W\d][\w$]* )
  | (?P<end> ; )
  | (?P<open> \( )
  | \s+ | .
    """,
    re.VERBOSE | re.DOTALL,
)
_NESTED = re.compile(r"/\*|\*/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A query as it was written.

    Attributes:
        text: The first statement, without what ends it.
        verb: The word that it begins with, in capitals; empty if there is none.
        arguments: Number of the highest placeholder, `$1` and so on; 0 if there are none.
        alone: Whether nothing comes behind the statement.
    """

    text: str
    verb: str
    arguments: int
    alone: bool


def parse(query: str) -> Statement:
    """Read a query, knowing of texts, quoted names, comments and dollar quotes only; the server judges the rest."""
    verb, highest, end, alone = "", 0, len(query), True
    for match in _tokens(query):
        kind = match.lastgroup
        if kind == "end":
            end = min(end, match.start())
            continue
        if match.start() > end and kind != "comment" and not match[0].isspace():
            alone = False
            break
        if kind == "number":
            highest = max(highest, int(match["number"]))
        if not verb and kind == "word":
            verb = match[0].upper()
        elif not verb and kind not in ("comment", "open") and not match[0].isspace():
            verb = match[0]
    return Statement(text=query[:end], verb=verb, arguments=highest, alone=alone)


def query_problems(query: str, arguments: int) -> Iterator[str]:
    """Yield what is wrong with a query that is to give rows, one sentence each, without its full stop.

    Args:
        query: The query.
        arguments: How many arguments there are for it.
    """
    statement = parse(query)
    if statement.verb not in READS:
        begins = f"begins with {statement.verb}" if statement.verb else "is empty"
        yield f"the query {begins}: give one SELECT (or WITH, VALUES, TABLE)"
    if not statement.alone:
        yield "the query has more than one statement: give one SELECT"
    if statement.arguments != arguments:
        wanted = f"arguments up to ${statement.arguments}" if statement.arguments else "no arguments"
        yield f"the query takes {wanted}, and {arguments} {'was' if arguments == 1 else 'were'} given"


def quoted(name: str) -> str:
    """Return a name of a column as it is written in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _tokens(query: str) -> Iterator[re.Match[str]]:
    """Yield the tokens; nothing of what is inside a block comment or a dollar quote."""
    at = 0
    while at < len(query) and (match := _TOKEN.match(query, at)) is not None:
        yield match
        at = match.end()
        if match["comment"] == "/*":
            at = _comment_end(query, at)
        elif match["dollar"]:
            closing = query.find(match["dollar"], at)
            at = len(query) if closing < 0 else closing + len(match["dollar"])


def _comment_end(query: str, at: int) -> int:
    """Return where a block comment ends that was opened before `at`; they nest."""
    depth = 1
    while depth and (match := _NESTED.search(query, at)) is not None:
        depth += 1 if match[0] == "/*" else -1
        at = match.end()
    return at if not depth else len(query)
