"""The command line, ``turnwise``: one file for each group of commands.

Nothing but click is imported until a command runs, so that ``turnwise --help`` is quick and works without
torch. :func:`run` is the one place where errors become a line of text and an exit code: 2 for what the
user can put right, 1 for what the machine cannot do, 130 for Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper

import click

from turnwise.cli.audit import audit_command
from turnwise.cli.compare import compare
from turnwise.cli.doctor import doctor
from turnwise.cli.envs import envs
from turnwise.cli.evaluate import evaluate_command
from turnwise.cli.export import export
from turnwise.cli.group import Commands
from turnwise.cli.images import images
from turnwise.cli.mcp import mcp
from turnwise.cli.messages import explain, install_warnings
from turnwise.cli.recipes import recipes
from turnwise.cli.replay import replay_command
from turnwise.cli.rescore import rescore
from turnwise.cli.serve import serve
from turnwise.cli.sft import sft
from turnwise.cli.show import show
from turnwise.cli.tasks import tasks
from turnwise.cli.train import train


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 90})
@click.version_option(package_name="turnwise", message="turnwise %(version)s")
def cli() -> None:
    """Train and evaluate language-model agents that act over many turns.

    \b
    First steps:
      turnwise doctor              what this machine can run
      turnwise train quickstart    train a small agent, on a CPU, in minutes
      turnwise show RUN            what it did, turn by turn
    """


COMMANDS = (
    *(doctor, envs, tasks, train, sft, compare, evaluate_command, audit_command, show),
    *(rescore, recipes, export, serve, mcp, replay_command, images),
)
for command in COMMANDS:
    cli.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Carry out a command line and return the exit code."""
    install_warnings()
    try:
        result = cli.main(list(arguments) or ["--help"], prog_name="turnwise", standalone_mode=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        click.echo(f"error: {explained.line}", err=True)
        return explained.code
    return result if isinstance(result, int) else 0


def main() -> None:
    """The entry point of the ``turnwise`` script. What a terminal cannot write becomes a question mark."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))
