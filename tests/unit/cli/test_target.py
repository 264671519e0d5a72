"""Finding pipelines, and what is said when there is none."""

import sys
from pathlib import Path

import pytest

from flowstone_async.cli.project import Project
from flowstone_async.cli.target import BrokenModule, find_pipeline
from flowstone_async.cli.usage import UsageError

ONE = "from flowstone_async import Pipeline\npipe = Pipeline('one')\n"


@pytest.fixture
def place(project: Path) -> Project:
    return Project(project, project)


@pytest.mark.parametrize("text", ["shop:pipe", "shop.py", "shop.py:pipe", "./shop.py"])
def test_a_pipeline_is_found_by_module_and_by_file(place: Project, text: str) -> None:
    assert find_pipeline(place, text).name == "shop"


def test_the_configured_target_is_relative_to_its_file(place: Project) -> None:
    below = place.cwd / "below"
    below.mkdir()
    (place.cwd / "flows").mkdir()
    (place.cwd / "flows/one.py").write_text(ONE)
    assert find_pipeline(Project(below, place.cwd, target="shop:pipe"), None).name == "shop"
    assert find_pipeline(Project(below, place.cwd, target="flows/one.py"), None).name == "one"


def test_a_file_finds_its_neighbours_and_its_package(place: Project) -> None:
    package = place.cwd / "src" / "acme" / "flows"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "names.py").write_text("NAME = 'relative'")
    (package / "main.py").write_text(
        "from flowstone_async import Pipeline\nfrom .names import NAME\np = Pipeline(NAME)"
    )
    found = find_pipeline(place, "src/acme/flows/main.py")
    assert found.name == "relative"
    assert "acme.flows.main" in sys.modules, "so that a process of its own finds it again"
    (place.cwd / "src" / "plain.py").write_text(
        "from flowstone_async import Pipeline\nimport near\np = Pipeline(near.NAME)"
    )
    (place.cwd / "src" / "near.py").write_text("NAME = 'near'")
    assert find_pipeline(place, "src/plain.py").name == "near"


def test_a_file_may_be_called_like_a_module_of_python(place: Project) -> None:
    (place.cwd / "json.py").write_text(ONE)
    assert find_pipeline(place, "json.py").name == "one"
    assert hasattr(sys.modules["json"], "dumps")


def test_an_attribute_path_leads_to_a_pipeline(place: Project) -> None:
    (place.cwd / "nested.py").write_text(ONE + "class app:\n    inner = pipe\n")
    assert find_pipeline(place, "nested:app.inner").name == "one"


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (None, "which pipeline?", 'target = "module:pipe"'),
        ("shap.py", "no file shap.py", "Did you mean 'shop.py'?"),
        ("nowhere/x.py", "no file nowhere/x.py", "module:pipe"),
        ("shap:pipe", "no module 'shap'", "Did you mean 'shop'?"),
        ("acme.flows:pipe", "no module 'acme'", "looked for in"),
        ("shop:pip", "shop has no pipeline 'pip'", "Did you mean 'pipe'?"),
        ("shop:days", "is no pipeline but of type Daily", "It has pipe."),
        ("shop:", "no target", "module:pipe"),
        (":pipe", "no target", "module:pipe"),
        ("two.py", "several pipelines", "two.py:first, two.py:second"),
        ("none.py", "no pipeline", "Pipeline('name')"),
    ],
)
def test_what_is_not_there_is_said_with_the_way_out(place: Project, text: str | None, message: str, hint: str) -> None:
    (place.cwd / "two.py").write_text(
        "from flowstone_async import Pipeline\nfirst = Pipeline('a')\nsecond = again = Pipeline('b')\n"
    )
    (place.cwd / "none.py").write_text("x = 1")
    with pytest.raises(UsageError) as refused:
        find_pipeline(place, text)
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("text", "location", "message"),
    [
        ("x = 1\nraise ValueError('boom')", "broken.py:2", "ValueError: boom"),
        ("def f(:", "broken.py:1", "SyntaxError"),
        ("import deeper", "deeper.py:2", "KeyError: 'deep'"),
        ("\nimport nowhere_to_be_found", "broken.py:2", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "broken.py:1", "__main__"),
        ("from flowstone_async import Daily\nDaily('nonsense')", "broken.py:2", "nonsense"),
    ],
)
@pytest.mark.parametrize("target", ["broken.py", "broken:pipe"])
def test_a_module_that_raises_is_shown_with_its_line(
    place: Project, target: str, text: str, location: str, message: str
) -> None:
    (place.cwd / "broken.py").write_text(text)
    (place.cwd / "deeper.py").write_text("\nraise KeyError('deep')")
    with pytest.raises(BrokenModule) as broken:
        find_pipeline(place, target)
    assert broken.value.location == location
    assert message in broken.value.message
    assert "Traceback" in broken.value.trace


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("import nowhere_to_be.found", "pip install nowhere_to_be?"),
        ("1 / 0", "--verbose shows the traceback."),
    ],
)
def test_a_module_that_is_not_installed_is_named(place: Project, text: str, hint: str) -> None:
    (place.cwd / "broken.py").write_text(text)
    with pytest.raises(BrokenModule) as broken:
        find_pipeline(place, "broken.py")
    assert hint in broken.value.hint
