"""From words to commands, and help (CLI-01, CLI-02)."""

import subprocess
import sys

import pytest

from flowstone_async.cli.arguments import parse
from flowstone_async.cli.commands import COMMANDS
from flowstone_async.cli.usage import UsageError


def test_a_command_line_becomes_options() -> None:
    options = parse(["run", "--force", "shop:pipe", "--param", "a=1", "report", "--param", "@f", "-p", "-5"]).options
    assert (options.target, options.asset, options.partition) == ("shop:pipe", "report", "-5")
    assert (options.force, options.param, options.no_deps, options.concurrency) == (True, ["a=1", "@f"], False, None)


def test_a_run_is_named_where_others_name_an_asset() -> None:
    options = parse(["watch", "shop:pipe", "0192-ab", "--json"]).options
    assert (options.target, options.run, options.asset, options.json) == ("shop:pipe", "0192-ab", None, True)
    assert parse(["retry", "0192-ab"]).options.run == "0192-ab"


def test_a_worker_takes_several_targets() -> None:
    options = parse(["worker", "a:b", "--slots", "3", "c.py", "d/e.py:f", "--health-port", "0"]).options
    assert (options.targets, options.slots, options.health_port) == (["a:b", "c.py", "d/e.py:f"], 3, 0)
    assert parse(["worker"]).options.targets == []


@pytest.mark.parametrize("target", ["shop:pipe", "shop.py", "flows/shop.py:pipe"])
def test_a_target_is_told_from_an_asset(target: str) -> None:
    assert parse(["why", target, "report"]).options.target == target
    assert parse(["why", "report"]).options.target is None
    assert parse(["why", "report"]).options.asset == "report"


def test_a_target_may_come_before_other_words() -> None:
    options = parse(["signal", "flows/shop.py", "job:7", "-5", "--id", "a"]).options
    assert (options.target, options.words, options.id) == ("flows/shop.py", ["job:7", "-5"], "a")
    options = parse(["signal", "job-7"]).options
    assert (options.target, options.words) == (None, ["job-7"])
    assert parse(["limits", "ls", "a:b"]).options.words == ["a:b"]


def test_an_asset_of_the_pipeline_may_be_named_with_it() -> None:
    assert parse(["why", "shop.report"]).options.asset == "shop.report"


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "no command was given", "run, plan, check"),
        (["rum"], "no command 'rum'", "Did you mean 'run'?"),
        (["run", "shop:pipe"], "which asset?", "flowstone run shop:pipe ASSET"),
        (["run", "shop", "report"], "'report' is one word too many; 'shop' was taken for the asset", "module:pipe"),
        (["check", "shop"], "'shop' is one word too many", "module:pipe"),
        (["run", "x", "--concurency", "2"], "no option --concurency", "Did you mean '--concurrency'?"),
        (["run", "x", "--conc", "2"], "no option --conc", "--help"),
        (["run", "x", "--concurrency", "0"], "whole number of 1 or more", "--help"),
        (["backfill", "x", "--parallel", "1.5"], "whole number of 1 or more", "--help"),
        (["backfill", "x", "--only", "all"], "missing", "--help"),
        (["graph", "a:b", "--format", "svg"], "mermaid", "--help"),
        (["run", "x", "-p"], "expected one argument", "--help"),
        (["watch", "shop:pipe"], "which run?", "flowstone watch shop:pipe RUN; flowstone runs lists them"),
        (["cancel", "shop", "0192"], "'0192' is one word too many; 'shop' was taken for the run", "module:pipe"),
        (["worker", "shop:pipe", "report"], "'report' is one word too many", "module:pipe"),
        (["signal", "shop:pipe"], "TOKEN is missing", "flowstone signal [TARGET] TOKEN [PAYLOAD]"),
        (["worker", "--slots", "0"], "whole number of 1 or more", "--help"),
        (["worker", "--health-port", "-1"], "whole number of 0 or more", "--help"),
        (["worker", "--health-port", "9" * 5000], "whole number of 0 or more", "--help"),
        (["submit", "x", "--priority", "4"], "'0', '1', '2', '3'", "--help"),
        (["plan", "a:b", "c:d", "x"], "'x' is one word too many", "module:pipe"),
    ],
)
def test_what_is_no_command_line_is_refused_with_the_way_out(words: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(words)
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")


@pytest.mark.parametrize("name", ["db", "dbs", "dev", "init"])
def test_commands_of_later_are_unknown(name: str) -> None:
    with pytest.raises(UsageError, match="there is no command"):
        parse([name])


@pytest.mark.parametrize("option", ["--resume", "--start-at", "--watch"])
def test_options_of_later_are_unknown(option: str) -> None:
    with pytest.raises(UsageError, match="has no option"):
        parse(["run", "x", option, "y"])


def test_help_lists_every_command_and_exit_code() -> None:
    text = parse(["--help"]).text or ""
    assert all(f"  {command.name} " in text for command in COMMANDS)
    assert all(f"\n  {code:<5}" in text for code in (0, 1, 2, 3, 4, 6, 7, 8, 130))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_help_of_a_command_tells_its_options(command: object) -> None:
    found = next(each for each in COMMANDS if each is command)
    text = parse([found.name, "some:target", "-h"]).text or ""
    assert all(flag in text for option in found.options for flag in option.flags)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["worker", "--help"], ["--version"]])
def test_help_loads_neither_the_engine_nor_what_it_needs(words: list[str]) -> None:
    program = (
        "import sys; from flowstone_async.cli import main; sys.argv[1:] = sys.argv[1:]; code = main();"
        "heavy = {'asyncio', 'asyncpg', 'anyio', 'pydantic', 'rich', 'cyclopts', 'flowstone_async.engine',"
        " 'flowstone_async.pipeline', 'flowstone_async.definition', 'shop'} & set(sys.modules);"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "flowstone" in done.stdout


def test_a_command_may_have_two_words() -> None:
    invocation = parse(["db", "prune", "shop:pipe", "--runs", "12h"])
    assert invocation.command is not None
    assert invocation.command.name == "db prune"
    assert (invocation.options.target, invocation.options.runs, invocation.options.values) == ("shop:pipe", "12h", "7d")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["db"], "no command 'db'", "Commands are db migrate, db prune, db stats"),
        (["db", "migrat"], "no command 'db migrat'", "Did you mean 'db migrate'?"),
        (["db", "stats", "shop:pipe"], "'shop:pipe' is one word too many", "See flowstone db stats --help"),
    ],
)
def test_the_second_word_is_needed(words: list[str], message: str, hint: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse(words)
    assert message in refused.value.message
    assert hint in (refused.value.hint or "")


def test_help_of_a_group_lists_its_commands() -> None:
    text = parse(["db", "--help"]).text or ""
    assert [line.split()[:2] for line in text.splitlines()] == [["db", verb] for verb in ("migrate", "prune", "stats")]
