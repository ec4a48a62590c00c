"""``turnwise audit``: whether an environment's score can be had without doing the task."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from turnwise.cli.backend import backend_option

if TYPE_CHECKING:
    from turnwise.agents.trajectory import Episode


@click.command("audit", short_help="Try to cheat an environment's grader.")
@click.argument("env")
@click.option("--tasks", type=int, help="The first N tasks of the split; all, up to 16, by default.")
@click.option("--every", is_flag=True, help="Try every cheat on every task, not on one task each.")
@click.option("--split", default="test", show_default=True, help="train, validation or test.")
@click.option("--concurrency", default=4, show_default=True, help="Episodes at once.")
@backend_option
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON to a file too.")
def audit_command(
    env: str,
    tasks: int | None,
    every: bool,
    split: str,
    concurrency: int,
    backend: str | None,
    as_json: bool,
    out: Path | None,
) -> None:
    """Run the oracle, an agent that does nothing and every catalogued cheat, and compare their scores.

    The oracle has to score in full and everything else nothing; exit code 1 where that is not so. What no
    grader of the kind can refuse is listed apart, as residue.

    \b
    Examples:
      turnwise audit swe/sample
      turnwise audit 'swe/tasks?path=tasks/' --tasks 4 --every
      turnwise audit tools/configdesk --json
    """
    import asyncio

    from turnwise.agents.audit import audit
    from turnwise.viewer.audit import audit_report
    from turnwise.viewer.console import make_console
    from turnwise.viewer.progress import Progress

    console, done = make_console(stderr=as_json), 0

    def ended(_: Episode) -> None:
        nonlocal done
        done += 1
        progress.phase("episodes", done, 0)

    with Progress(console, f"audit of {env}", steps=0) as progress:
        result = asyncio.run(
            audit(
                env,
                split=split,
                tasks=tasks,
                every=every,
                backend=backend,
                concurrency=concurrency,
                listener=ended,
            )
        )
    body = result.model_dump_json(indent=2)
    if out is not None:
        out.write_text(body + "\n", encoding="utf-8")
    if as_json:
        click.echo(body)
    else:
        console.print(audit_report(result))
    if not result.sound:
        raise click.exceptions.Exit(1)
