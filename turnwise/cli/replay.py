"""``turnwise replay``: does a journalled session come out the same again?"""

from __future__ import annotations

from pathlib import Path

import click

from turnwise.cli.backend import backend_option


@click.command("replay", short_help="Repeat a served session from its journal.")
@click.argument("session")
@click.option(
    "--journal",
    type=click.Path(path_type=Path),
    default=Path("journal"),
    show_default=True,
    help="The folder that `turnwise serve --journal` wrote.",
)
@backend_option
def replay_command(session: str, journal: Path, backend: str | None) -> int:
    """Repeat a session's actions in a fresh environment and compare what comes of each.

    Exit code 1 where something came out otherwise than SESSION's journal says: views, digests of the
    environment's state, rewards, ends. The first such call is named.

    \b
    Examples:
      turnwise serve tools/configdesk --journal journal
      turnwise replay 2f6c1f0a9c7b4d6fb0a8f3f4d6f6a111 --journal journal
    """
    import asyncio

    from turnwise.envs.serving.replay import describe, replay

    found = asyncio.run(replay(journal, session, backend=backend))
    where = f"{found.env}, task {found.task}"
    if found.drift is None:
        click.echo(f"{where}: {found.calls} calls came out as the journal says")
        return 0
    click.echo(f"{where}: drift at {found.drift.call}, after {found.calls - 1} calls that came out the same")
    for line in describe(found.drift):
        click.echo(f"  {line}")
    return 1
