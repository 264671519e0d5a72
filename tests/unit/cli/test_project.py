"""Defaults of pyproject.toml, and the store."""

from pathlib import Path

import pytest

from flowstone_async.cli.project import Project, find_project, secrets_of, store_of
from flowstone_async.cli.usage import UsageError


def _write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_defaults_come_from_the_nearest_pyproject(tmp_path: Path) -> None:
    _write(tmp_path, '[tool.flowstone]\ntarget = "far:pipe"\n')
    near = _write(tmp_path / "near", '[tool.flowstone]\ntarget = "near:pipe"\nstore = "memory"\n')
    below = near / "a" / "b"
    below.mkdir(parents=True)
    assert find_project(below) == Project(below, near, "near:pipe", "memory")


def test_the_nearest_pyproject_counts_also_without_our_table(tmp_path: Path) -> None:
    _write(tmp_path, '[tool.flowstone]\ntarget = "far:pipe"\n')
    near = _write(tmp_path / "near", "[project]\n")
    assert find_project(near).target is None


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[tool.flowstone]\ntraget = "x"', "'traget', which means nothing", "Did you mean 'target'?"),
        ("[tool.flowstone]\nstore = 3", "store of [tool.flowstone]", 'store = "..."'),
        ("[tool]\nflowstone = 3", "tool.flowstone", "[tool.flowstone]"),
        ("[tool.flowstone", "cannot read", "Correct it"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        find_project(_write(tmp_path, text))
    assert message in refused.value.message
    assert str(tmp_path / "pyproject.toml") in refused.value.message
    assert hint in (refused.value.hint or "")


def test_the_store_is_embedded_unless_somebody_says_otherwise(tmp_path: Path) -> None:
    project = Project(tmp_path, tmp_path, store="memory")
    assert store_of(Project(tmp_path, tmp_path), None) == "embedded"
    assert store_of(project, None) == "memory"
    assert store_of(project, "embedded") == "embedded"


def test_a_configured_folder_is_relative_to_its_file_and_a_given_one_to_us(tmp_path: Path) -> None:
    cwd, folder = tmp_path / "a" / "b", tmp_path
    assert store_of(Project(cwd, folder, store="embedded:data"), None) == f"embedded:{tmp_path / 'data'}"
    assert store_of(Project(cwd, folder, store="embedded"), None) == f"embedded:{tmp_path / '.flowstone'}"
    assert store_of(Project(cwd, folder), "embedded:data") == f"embedded:{cwd / 'data'}"
    assert store_of(Project(cwd, folder), "embedded:/data") == "embedded:/data"


def test_variables_of_the_environment_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", "postgresql://u:p@h/db")
    monkeypatch.setenv("FLOWSTONE_STORE", "memory")
    project = Project(tmp_path, tmp_path)
    assert store_of(project, "$DB_URL") == "postgresql://u:p@h/db"
    assert store_of(project, "${DB_URL}?a=$$b") == "postgresql://u:p@h/db?a=$b"
    assert store_of(project._replace(store="$DB_URL"), None) == "postgresql://u:p@h/db"
    assert store_of(project, None) == "embedded", "no variable counts that nobody named"


def test_a_missing_variable_is_an_error_that_shows_no_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOPE", raising=False)
    with pytest.raises(UsageError, match=r"--store needs the variable NOPE") as refused:
        store_of(Project(tmp_path, tmp_path), "postgresql://u:topsecret@$NOPE/db")
    assert "topsecret" not in f"{refused.value.message}{refused.value.hint}"
    with pytest.raises(UsageError, match=r"\$ that no name follows") as refused:
        store_of(Project(tmp_path, tmp_path, store="postgresql://u:top$/secret@h/db"), None)
    assert "top" not in refused.value.message


def test_secrets_come_from_the_environment_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW", "new")
    monkeypatch.setenv("ROTATED", "newer, new")
    project = Project(tmp_path, tmp_path, secret="$NEW")
    assert secrets_of(project, None) == ["new"]
    assert secrets_of(project, "$ROTATED") == ["newer", "new"]
    assert secrets_of(Project(tmp_path, tmp_path), None) == []
    with pytest.raises(UsageError, match="is not set"):
        secrets_of(project, "$MISSING")
    for refused in (secrets_of, lambda project, _: secrets_of(project._replace(secret="open"), None)):
        with pytest.raises(UsageError, match="written out") as caught:
            refused(project, "open")
        assert "$FLOWSTONE_SECRET" in (caught.value.hint or "")
