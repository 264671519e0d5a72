"""What is told of a query before it is sent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstone_async.sources.keyset import Tie, border_at
from flowstone_async.sources.sql import parse, query_problems, quoted


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1",
        "  select 1 ;  ",
        "SELECT 1; -- that was it",
        "-- a comment\n/* another /* nested */ one */ (SELECT 1)",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "VALUES (1), (2)",
        "TABLE documents",
        "SELECT ';' AS \"a;b\", E'\\';', $$;$$, $a$;$$;$a$",
        "SELECT 'it''s; fine'",
        "SELECT a$1 FROM b",
    ],
)
def test_one_statement_that_gives_rows(query: str) -> None:
    """READ-13."""
    assert list(query_problems(query, 0)) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("UPDATE a SET b = 1", "the query begins with UPDATE: give one SELECT (or WITH, VALUES, TABLE)"),
        ("insert into a values (1) returning *", "the query begins with INSERT"),
        ("", "the query is empty"),
        (" -- nothing", "the query is empty"),
        ("'SELECT 1'", "the query begins with 'SELECT 1'"),
        ("SELECT 1; SELECT 2", "the query has more than one statement"),
        ("SELECT 1; DROP TABLE a", "the query has more than one statement"),
        ("SELECT 1;;SELECT 2", "the query has more than one statement"),
    ],
)
def test_anything_else_is_a_problem(query: str, problem: str) -> None:
    """READ-13."""
    (found,) = query_problems(query, 0)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("SELECT 1", 0),
        ("SELECT $1", 1),
        ("SELECT $1, $2 WHERE $1", 2),
        ("SELECT $12", 12),
        ("SELECT '$1', \"$2\", a$3, $$ $4 $$, $x$ $5 $x$ -- $6\n /* $7 /* $8 */ $9 */", 0),
        ("SELECT $1::int,$2", 2),
        ("SELECT 'open $1", 1),
        ("SELECT 1 /* open $1", 0),
    ],
)
def test_the_arguments_are_counted(query: str, arguments: int) -> None:
    """READ-13."""
    assert parse(query).arguments == arguments


@pytest.mark.parametrize(
    ("query", "given", "problem"),
    [
        ("SELECT $1, $2", 1, "the query takes arguments up to $2, and 1 was given"),
        ("SELECT $1", 0, "the query takes arguments up to $1, and 0 were given"),
        ("SELECT 1", 2, "the query takes no arguments, and 2 were given"),
    ],
)
def test_a_wrong_number_of_arguments_is_a_problem(query: str, given: int, problem: str) -> None:
    """READ-13."""
    assert list(query_problems(query, given)) == [problem]


def test_what_ends_a_statement_is_left_out() -> None:
    """READ-13: the query becomes a part of another one."""
    assert parse("SELECT 1 ; ").text == "SELECT 1 "
    assert parse("SELECT ';'").text == "SELECT ';'"


@given(st.text(alphabet="SELECT $12'\"-/*;()ab\n"))
def test_any_text_is_read_to_its_end(query: str) -> None:
    """READ-13: no text is an error of ours."""
    assert query.startswith(parse(query).text)


def test_names_are_quoted() -> None:
    """READ-14."""
    assert quoted('a "b"; --') == '"a ""b""; --"'


@given(st.lists(st.integers(1, 3), max_size=8), st.integers(1, 4))
def test_no_page_ends_between_equal_keys(counts: list[int], size: int) -> None:
    """READ-14: nor is one larger than it may be, or smaller than it need be."""
    ranks = [rank for rank, count in enumerate(counts) for _ in range(count)]
    seen = ranks[: size + 1]
    border = border_at(seen, size)
    assert border <= size
    if border < len(seen):
        assert border == 0 or seen[border - 1] != seen[border]
        assert all(rank == seen[size] for rank in seen[border:])
        assert border or len(set(seen)) == 1
    else:
        assert len(seen) <= size


@given(st.lists(st.lists(st.binary(min_size=1, max_size=1), min_size=1), max_size=4))
def test_equal_rows_are_counted_over_statements(parts: list[list[bytes]]) -> None:
    """READ-14: the place says how many rows with its hash were read, in however many statements."""
    digests = sorted(each for part in parts for each in part)
    tie, at = Tie(key=(1,)), 0
    for part in parts:
        tie = tie.behind(digests[at : at + len(part)])
        at += len(part)
        assert (tie.digest, tie.same) == (digests[at - 1], digests[:at].count(digests[at - 1]))
