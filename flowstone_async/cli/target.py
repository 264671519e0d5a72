"""From `module:pipe` or `path/file.py[:pipe]` to a pipeline: the one place that imports the user's code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from flowstone_async.cli.project import Project
from flowstone_async.cli.usage import UsageError, did_you_mean
from flowstone_async.errors import FlowstoneError
from flowstone_async.pipeline import Pipeline

_FORMS = "A target is written module:pipe or path/file.py[:pipe]."


class BrokenModule(Exception):
    """The user's module could not be imported.

    Attributes:
        message: The error, on one line or a few.
        file: The user's file in which it happened, or None.
        line: Line of it, or None.
        missing: The module that there is not, if that is why.
        trace: The traceback as text.
    """

    def __init__(self, module: str, error: BaseException) -> None:
        self.module = module
        self.file, self.line = _place(error)
        self.message = _described(error)
        self.missing = error.name if isinstance(error, ModuleNotFoundError) else None
        self.trace = "".join(traceback.format_exception(error))
        super().__init__(f"{module} could not be imported: {self.message}")

    @property
    def location(self) -> str:
        """`file:line`, as far as it is known."""
        return f"{self.file or self.module}:{self.line or 0}"

    @property
    def hint(self) -> str:
        """What to do."""
        if self.missing is None:
            return "--verbose shows the traceback."
        package = self.missing.partition(".")[0]
        return (
            f"Install what has the module {package} in this environment (pip install {package}?), or mend the import."
        )


def find_pipeline(project: Project, given: str | None) -> Pipeline:
    """Import what a target names and return the pipeline.

    Args:
        project: Where the command is given.
        given: The target on the command line, or None for the configured one.

    Raises:
        UsageError: There is no such file, module or pipeline, or nothing says which.
        BrokenModule: The module raises when it is imported.
    """
    text = given or project.target
    if text is None:
        raise UsageError(
            "which pipeline? No target was named, and no pyproject.toml has a default",
            f'{_FORMS} The default is target = "module:pipe" under [tool.flowstone].',
        )
    folder = project.folder if given is None else project.cwd
    place, _, name = text.rpartition(":") if not text.endswith(".py") else (text, "", "")
    if not place or (not name and not place.endswith(".py")):
        raise UsageError(f"{text!r} is no target", _FORMS)
    if place.endswith(".py"):
        module = _from_file((folder / Path(place).expanduser()).resolve(), place)
    else:
        _search([project.cwd, folder])
        module = _from_name(place, folder)
    return _pipeline(module, name, place)


def _search(folders: Iterable[Path]) -> None:
    for folder in folders:
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))


def _from_name(name: str, folder: Path) -> ModuleType:
    try:
        found = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        raise _no_module(str(error.name), folder) from None
    except (ValueError, AttributeError):
        found = None
    except (Exception, SystemExit) as error:  # a package above it is the user's code
        raise BrokenModule(name, error) from error
    if found is None:
        raise _no_module(name, folder)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        raise BrokenModule(name, error) from error


def _from_file(file: Path, shown: str) -> ModuleType:
    if not file.is_file():
        siblings = [each.name for each in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UsageError(f"there is no file {shown}", did_you_mean(file.name, siblings) or _FORMS)
    root, name = _importable(file)
    _search([root])
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return loaded
    if loaded is not None or name in sys.stdlib_module_names:
        name = f"flowstone_target_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UsageError(f"{shown} is no Python file", _FORMS)
    try:
        if "." in name:
            importlib.import_module(name.rpartition(".")[0])
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        sys.modules.pop(name, None)
        raise BrokenModule(shown, error) from error
    return module


def _importable(file: Path) -> tuple[Path, str]:
    """Return the folder from which a file is imported, and its name there: relative imports and processes need them."""
    folder, parts = file.parent, [file.stem]
    while (folder / "__init__.py").is_file() and folder.parent != folder:
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts)


def _no_module(name: str, folder: Path) -> UsageError:
    known = [each.stem for each in folder.glob("*.py")] + [each.parent.name for each in folder.glob("*/__init__.py")]
    return UsageError(
        f"there is no module {name!r}",
        did_you_mean(name, known) or f"It is looked for in {folder} and among what is installed. {_FORMS}",
    )


def _pipeline(module: ModuleType, name: str, place: str) -> Pipeline:
    found = dict(_pipelines(module))
    if not name:
        if len(found) == 1:
            return next(iter(found.values()))
        forms = ", ".join(f"{place}:{each}" for each in found)
        problem = f"{place} has several pipelines" if found else f"{place} has no pipeline"
        raise UsageError(problem, f"Say which: {forms}." if found else "Make one: pipe = Pipeline('name').")
    value: object = module
    for part in name.split("."):
        value = getattr(value, part, None)
    if isinstance(value, Pipeline):
        return value
    hint = did_you_mean(name, found) or (f"It has {', '.join(found)}." if found else "It has no pipeline at all.")
    if value is None:
        raise UsageError(f"{place} has no pipeline {name!r}", hint)
    raise UsageError(f"{place}:{name} is no pipeline but of type {type(value).__name__}", hint)


def _pipelines(module: ModuleType) -> Iterator[tuple[str, Pipeline]]:
    seen: set[int] = set()
    for name, value in vars(module).items():
        if isinstance(value, Pipeline) and id(value) not in seen:
            seen.add(id(value))
            yield name, value


def _place(error: BaseException) -> tuple[str | None, int | None]:
    """Return the deepest line of code that is neither Python's import machinery nor ours."""
    if isinstance(error, SyntaxError) and error.filename is not None:
        return _short(error.filename), error.lineno
    own = str(Path(__file__).parent.parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen ", own)) and "importlib" not in Path(frame.filename).parts
    ]
    return (_short(frames[-1].filename), frames[-1].lineno) if frames else (None, None)


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else file


def _described(error: BaseException) -> str:
    if isinstance(error, FlowstoneError):
        return str(error)
    if isinstance(error, SystemExit):
        return f"it exits ({error.code}); what only a script may do belongs under `if __name__ == '__main__':`"
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {error}"
