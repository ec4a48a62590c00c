"""``turnwise show``: a run at a glance, or one of its episodes turn by turn."""

from __future__ import annotations

from pathlib import Path

import click

from turnwise.cli.backend import backend_option


@click.command(short_help="Show a run, or an episode turn by turn.")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("episode", required=False)
@click.option("--step", is_flag=True, help="Go through the episode by hand, in the live environment.")
@backend_option
def show(run: Path, episode: str | None, step: bool, backend: str | None) -> None:
    """Show a run, or one of its episodes turn by turn with reward and advantage.

    Without EPISODE: an overview, the last success and the last failure, and episodes to choose from.

    \b
    Examples:
      turnwise show runs/a
      turnwise show runs/a train-40/3-1
      turnwise show runs/a train-40/3-1 --step
    """
    from turnwise.cli.shell import command_line
    from turnwise.envs.errors import UsageError
    from turnwise.viewer.console import episode_view, make_console, overview
    from turnwise.viewer.episodes import pick_episodes
    from turnwise.viewer.run_folder import RunFolder

    folder, console = RunFolder(run), make_console()
    if episode is not None:
        shown = folder.episode(episode)
        if step:
            import asyncio

            from turnwise.cli.stepping import step_through

            asyncio.run(step_through(console, folder.env, shown, backend))
        else:
            console.print(episode_view(shown))
        return
    if step:
        raise UsageError(f"--step needs an EPISODE; {command_line('show', run)} lists some")
    picks = pick_episodes(folder)
    console.print(overview(folder, picks))
    for pick in picks[:2]:
        console.print(f"\n{pick.title}", style="bold underline")
        console.print(episode_view(pick.shown))
    if picks:
        command = command_line("show", run, picks[0].shown.episode.episode_id)
        console.print(f"\nOne of them: {command}\nBy hand:     {command} --step", soft_wrap=True)
