"""The `flowstone` command.

`commands.py` is the table of commands and options, from which help and parser are made; each command is a function in
a file of its own (`run.py`, `backfill.py`, `look.py` …), imported when it is called. Read `commands.py` first, then
`execute.py`, which leads from the words of a command line to an exit code.

Help answers within a fifth of a second: nothing that `import flowstone_async.cli` or `arguments.py` needs may import
the engine, a database driver or anything of the user's. Standard output carries data and nothing else; messages, and
whatever the user's own code prints, go to standard error. Everything shown to people is redacted.
"""

from __future__ import annotations


def main() -> int:
    """Run the command line of this process and return its exit code: the entry point of `flowstone`."""
    from flowstone_async.cli.process import run_process

    return run_process()
