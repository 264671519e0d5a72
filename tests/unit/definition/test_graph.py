"""Order and drawings (ASSET-20, ASSET-21, ASSET-22)."""

from __future__ import annotations

import json
import re

import pytest

from flowstone_async import ConfigError, Pipeline, dep
from tests.unit.definition.reading import untyped


def _pipe(*edges: str, isolated: tuple[str, ...] = ()) -> Pipeline:
    """Return a pipeline of edges like `"a b"`, assets declared in the order in which they are named."""
    names = dict.fromkeys([*" ".join(edges).split(), *isolated])
    pairs = [edge.split() for edge in edges]
    pipe = Pipeline("p")

    async def combine(**inputs: int) -> int:
        return sum(inputs.values()) + 1

    for name in names:
        above = [one for one, other in pairs if other == name]
        pipe.add(combine, name=name, deps={f"n{i}": each for i, each in enumerate(above)})
    return pipe


def test_order_is_topological_with_ties_as_declared() -> None:
    """ASSET-20: each asset once."""
    pipe = Pipeline("p")

    @pipe.asset
    async def last(middle: int, early: int) -> int:
        return middle + early

    @pipe.asset
    async def lonely() -> int:
        return 0

    @pipe.asset
    async def middle(early: int, again: int = dep("early")) -> int:
        return early + again

    @pipe.asset
    async def early() -> int:
        return 1

    assert pipe.assets() == ("last", "lonely", "middle", "early")
    assert pipe.order() == ("lonely", "early", "middle", "last")


def test_ties_are_broken_by_declaration() -> None:
    """ASSET-20."""
    assert _pipe("a c", "b c", "a d", "c d").order() == ("a", "b", "c", "d")
    assert Pipeline("empty").order() == ()


def test_the_tree_of_a_chain() -> None:
    """ASSET-21: exactly so."""
    pipe = Pipeline("p")

    @pipe.asset
    async def raw() -> list[int]:
        return [1]

    @pipe.asset
    async def doubled(raw: list[int]) -> list[int]:
        return raw

    @pipe.asset
    async def sum(doubled: list[int]) -> int:  # noqa: A001
        return len(doubled)

    assert pipe.graph() == "raw\n└── doubled\n    └── sum"
    assert pipe.graph("tree") == pipe.graph()


TREE = """
a
├── b
│   └── d
│       ├── e
│       │   └── g
│       └── f
└── c
    └── d (see above)
x
└── e (see above)
alone
""".strip()


def test_the_tree_of_a_diamond() -> None:
    """ASSET-21: roots at column 0, isolated assets, what was shown already as one line without its subtree."""
    pipe = _pipe("a b", "a c", "b d", "c d", "d e", "d f", "x e", "e g", isolated=("alone",))
    assert pipe.graph() == TREE


def test_a_leaf_reached_twice() -> None:
    """ASSET-21."""
    assert _pipe("a c", "b c").graph() == "a\n└── c\nb\n└── c (see above)"
    assert Pipeline("empty").graph() == ""


def test_a_long_chain_goes_on_at_the_left() -> None:
    """ASSET-21, G-03: so that output stays linear; every asset is drawn once."""
    size = 1000
    lines = _pipe(*(f"n{i} n{i + 1}" for i in range(size))).graph().splitlines()
    assert max(map(len, lines)) < 850
    assert lines[200:203] == ["    " * 199 + "└── n200 (see below)", "n200", "└── n201"]
    drawn = [line.split("── ")[-1] for line in lines if not line.endswith("(see below)")]
    assert drawn == [f"n{i}" for i in range(size + 1)]


def test_mermaid() -> None:
    """ASSET-22: one line for each edge and each isolated asset; optional edges are dashed."""
    pipe = _pipe("a b", "a c", isolated=("alone",))

    @pipe.asset(when=lambda c: c > 0)
    async def down(
        x: int | None = dep("a", optional=True), y: int | None = dep("b", optional=True), z: int = dep("b")
    ) -> int:
        return z

    assert pipe.graph("mermaid").splitlines() == [
        "graph TD",
        "    a --> b",
        "    a --> c",
        "    a -.-> down",
        "    b --> down",
        "    c --> down",
        "    alone",
    ]
    assert Pipeline("empty").graph("mermaid") == "graph TD"


def test_mermaid_has_words_of_its_own() -> None:
    """ASSET-22: an asset called like one of them is still drawn."""
    assert _pipe("end style").graph("mermaid").splitlines() == ["graph TD", '    end_["end"] --> style_["style"]']


def test_dot() -> None:
    """ASSET-22: nodes and edges as Graphviz reads them."""
    pipe = Pipeline("my-pipe")
    up = pipe.constant("up", 1)

    @pipe.asset
    async def down(x: int | None = dep(up, optional=True)) -> int:
        return x or 0

    @pipe.asset
    async def last(up: int, down: int) -> int:
        return up + down

    lines = pipe.graph("dot").splitlines()
    assert lines == [
        'digraph "my-pipe" {',
        '    "up";',
        '    "down";',
        '    "last";',
        '    "up" -> "down" [style=dashed];',
        '    "up" -> "last";',
        '    "down" -> "last";',
        "}",
    ]
    statement = r'    "[a-z_0-9]+"( -> "[a-z_0-9]+"( \[style=dashed\])?)?;'
    assert all(re.fullmatch(statement, line) for line in lines[1:-1])


def test_json() -> None:
    """ASSET-22: nodes and edges."""
    pipe = Pipeline("p")
    up = pipe.constant("up", 1, description="A number.")

    @pipe.asset
    async def down(x: int | None = dep(up, optional=True)) -> int:
        return x or 0

    assert json.loads(pipe.graph("json")) == {
        "pipeline": "p",
        "nodes": [
            {"name": "up", "kind": "constant", "description": "A number."},
            {"name": "down", "kind": "asset", "description": None},
        ],
        "edges": [{"from": "up", "to": "down", "optional": True}],
    }


@pytest.mark.parametrize("format_", ["svg", None, 5, "Tree"])
def test_another_format(format_: object) -> None:
    """ASSET-22: lists those there are."""
    with pytest.raises(ConfigError) as caught:
        untyped(Pipeline("p")).graph(format_)
    assert caught.value.message == f"format={format_!r}"
    assert caught.value.hint == "Allowed are 'tree', 'mermaid', 'dot', 'json'."
