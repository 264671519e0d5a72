"""The built wheel works on its own: an empty environment, no checkout in sight, hello world.

Dependencies come from the environment that runs the tests, by a path entry that also hides its editable install: the
files that would put the checkout on the path are read from site-packages proper only.
"""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.sources import WheelFile

ROOT = Path(__file__).resolve().parents[2]

HELLO = """
from flowstone_async import Pipeline

pipe = Pipeline("hello")

@pipe.asset
async def greeting() -> str:
    return "Hello, World!"

print(pipe.run_sync(greeting))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder), cwd=ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds the wheel and nothing else of ours."""
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False, symlinks=os.name != "nt")
    scheme = sysconfig.get_paths("venv", vars={"base": str(home), "platbase": str(home)})
    interpreter = Path(scheme["scripts"]) / ("python.exe" if os.name == "nt" else "python")
    kind = "win-amd64" if os.name == "nt" else "posix"
    with WheelFile.open(wheel) as source:
        install(source, SchemeDictionaryDestination(scheme, interpreter=str(interpreter), script_kind=kind), {})
    (Path(scheme["purelib"]) / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return interpreter


def test_the_wheel_holds_the_package_and_only_the_package(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "flowstone_async/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"flowstone_async"}
    packaged = {name for name in names if name.startswith("flowstone_async/")}
    sources = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "flowstone_async").rglob("*")
        if path.suffix in {".py", ".sql"}
    }
    assert sources <= packaged, "SQL and templates must travel with the code"


def test_hello_world_runs_from_the_wheel(python: Path, tmp_path: Path) -> None:
    place = _run(str(python), "-c", "import flowstone_async; print(flowstone_async.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(python.parent.parent)
    (tmp_path / "hello.py").write_text(HELLO, encoding="utf-8")
    assert _run(str(python), "hello.py", cwd=tmp_path) == "Hello, World!\n"


def test_the_command_line_starts_from_the_wheel(python: Path, tmp_path: Path) -> None:
    assert "check" in _run(str(python.with_name("flowstone")), "--help", cwd=tmp_path)


def _run(*command: str, cwd: Path) -> str:
    """Run a command away from whatever the caller's environment says about Python; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout
