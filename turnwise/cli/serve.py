"""``turnwise serve``: environments for programs elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from turnwise.envs.server import EnvServer


@click.command(short_help="Serve environments to other programs.")
@click.argument("envs", metavar="ENV...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8000, type=click.IntRange(0, 65535), show_default=True, help="0: any free one."
)
@click.option("--token", envvar="TURNWISE_TOKEN", help="The trainer's; better in TURNWISE_TOKEN.")
@click.option("--sessions", default=128, show_default=True, help="Open at once; more wait.")
@click.option("--backend", help="The sandbox to run in; the best one by default.")
def serve(
    envs: tuple[str, ...], host: str, port: int, token: str | None, sessions: int, backend: str | None
) -> None:
    """Serve environments until Ctrl-C or SIGTERM, which close every session.

    Without a token every program on this machine is the trainer, and other machines are refused. An ENV with
    options, as in 'tools/configdesk?level=2', is served with those alone, one without with any.

    \b
    Examples:
      turnwise serve tools/configdesk
      TURNWISE_TOKEN=$(openssl rand -hex 32) turnwise serve tools/configdesk --host 0.0.0.0
    """
    import asyncio

    from turnwise.envs.errors import UsageError

    try:
        from turnwise.envs.server import EnvServer
    except ModuleNotFoundError as error:
        raise UsageError(f"serve needs {error.name}: pip install 'turnwise[server]'") from None
    server = EnvServer(envs, host=host, port=port, token=token, sessions=sessions, backend=backend)
    asyncio.run(until_stopped(server, ", ".join(envs), open_to_all=token is None))


async def until_stopped(server: EnvServer, names: str, *, open_to_all: bool) -> None:
    """Serve until the first signal to stop; a second one no longer waits for sessions to close."""
    import asyncio
    import signal

    signals = (signal.SIGINT, signal.SIGTERM)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    async with server:
        who = "every program on this machine is the trainer" if open_to_all else "callers need the token"
        click.echo(f"serving {names} at {server.url}; {who}")
        await stop.wait()
        for number in signals:
            loop.remove_signal_handler(number)
