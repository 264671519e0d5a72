"""From the words of a command line to an exit code."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from flowstone_async.cli import exit_code
from flowstone_async.cli.arguments import Invocation, parse
from flowstone_async.cli.command import Command
from flowstone_async.cli.output import Output, OutputError, ReaderGone
from flowstone_async.cli.usage import UsageError


def execute(words: Sequence[str], output: Output, cwd: Path) -> int:
    """Do what a command line says and return the exit code.

    Args:
        words: What follows the name of the program.
        output: Where to write.
        cwd: The current directory.
    """
    try:
        invocation = parse(words)
        if invocation.text is not None or invocation.command is None:
            output.write(invocation.text or "")
            return exit_code.OK
        return _run(invocation, invocation.command, tuple(words), output, cwd)
    except UsageError as error:
        output.fail(error.message, error.hint)
        return exit_code.USAGE
    except ReaderGone:
        return exit_code.OK
    except OutputError as error:
        output.fail(str(error))
        return exit_code.FAILED
    except KeyboardInterrupt:
        output.say("interrupted")
        return exit_code.INTERRUPTED


def _run(invocation: Invocation, command: Command, words: tuple[str, ...], output: Output, cwd: Path) -> int:
    # All of it imports what help can do without.
    from flowstone_async.cli.call import call
    from flowstone_async.cli.job import Job
    from flowstone_async.cli.messages import logged_to
    from flowstone_async.cli.project import find_project

    module, _, function = command.handler.partition(":")
    handler = getattr(importlib.import_module(f"flowstone_async.cli.{module}"), function)
    again = shlex.join(["flowstone", *words])
    with logged_to(output, verbose=invocation.options.verbose, service=command.service):
        job = Job(again, invocation.options, output, find_project(cwd))
        about = command.pipeline == "needed" or (command.pipeline == "optional" and job.has_target)
        return call(handler, job, pipeline=about)
