"""``turnwise eval``: how often a policy succeeds in an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from turnwise.cli.backend import backend_option

if TYPE_CHECKING:
    from turnwise.agents.trajectory import Episode


@click.command("eval", short_help="Measure how often a policy succeeds.")
@click.argument("env")
@click.option(
    "--policy",
    required=True,
    help="scripted:oracle, scripted:noop, scripted:random, a run or a model's folder.",
)
@click.option("--tasks", type=int, help="The first N tasks of the split; all, up to 128, by default.")
@click.option("--k", default=1, show_default=True, help="Tries of each task.")
@click.option("--split", default="test", show_default=True, help="train, validation or test.")
@click.option("--seed", default=0, show_default=True, help="Of sampling.")
@backend_option
def evaluate_command(
    env: str, policy: str, tasks: int | None, k: int, split: str, seed: int, backend: str | None
) -> None:
    """Evaluate a policy on the tasks of a split: success with a 95% interval, pass@k, how episodes end.

    \b
    Examples:
      turnwise eval tools/configdesk --policy scripted:oracle
      turnwise eval tools/configdesk --policy runs/a --tasks 256 --k 4
      turnwise eval 'tools/configdesk?level=2' --policy runs/a
    """
    import asyncio

    from turnwise.agents.evaluate import evaluate
    from turnwise.sandbox.contract import SandboxError
    from turnwise.viewer.console import evaluation_table, make_console
    from turnwise.viewer.progress import Progress

    console, done = make_console(), 0
    title = f"{policy} on {env}"

    def ended(_: Episode) -> None:
        nonlocal done
        done += 1
        progress.phase("episodes" if tasks else f"{done:,} episodes", done, (tasks or 0) * k)

    with Progress(console, title, steps=0) as progress:
        result = asyncio.run(
            evaluate(env, policy, split=split, tasks=tasks, k=k, seed=seed, backend=backend, listener=ended)
        )
    if not result.scored:
        raise SandboxError(f"no episode could be scored; the first failed with: {result.episodes[0].error}")
    if console.is_terminal:
        console.print(title, style="bold")
    console.print(evaluation_table(result, k))
