"""``turnwise export``: all turns of a run as one Parquet file."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Write a run's turns as Parquet.")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The file; RUN/turns.parquet by default.")
def export(run: Path, out: Path | None) -> None:
    """Write all turns of a run as Parquet, a row each, with tokens and rewards.

    \b
    Examples:
      turnwise export runs/a
      turnwise export runs/a --out turns.parquet
    """
    from turnwise.agents.store import export_parquet
    from turnwise.viewer.run_folder import RunFolder

    target = out or run / "turns.parquet"
    count = export_parquet(RunFolder(run).path, target)
    click.echo(f"{count:,} turns in {target}")
