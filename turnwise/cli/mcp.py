"""``turnwise mcp``: an environment's tools for any agent that speaks MCP."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path

import click

from turnwise.cli.backend import backend_option
from turnwise.cli.token import VARIABLE, check_environment


@click.command("mcp", short_help="Offer an environment's tools as an MCP server.")
@click.argument("env")
@click.option("--seed", default=0, show_default=True, help="The task's number in its split.")
@click.option("--split", default="test", show_default=True)
@click.option(
    "--record", type=click.Path(path_type=Path), help="Add each turn, scored, to this file of JSON lines."
)
@backend_option
@click.option("--http", is_flag=True, help="Serve streamable HTTP instead of standard input and output.")
@click.option("--host", help="With --http, the address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="With --http; 0: any free one.  [default: 8000]")
@click.option("--token", envvar=VARIABLE, help=f"With --http, what callers need; better in {VARIABLE}.")
def mcp(
    env: str,
    seed: int,
    split: str,
    record: Path | None,
    backend: str | None,
    http: bool,
    host: str | None,
    port: int | None,
    token: str | None,
) -> None:
    """Offer the tools of ENV: each MCP session is an episode of one task, each call a turn.

    The agent is told the task and when the episode has ended. Scores and milestones go to --record only.

    \b
    Examples:
      turnwise mcp tools/configdesk --seed 3 --record turns.jsonl
      turnwise mcp 'tools/configdesk?level=2' --http --port 8001
    """
    import asyncio

    from turnwise.envs.errors import UsageError

    if not http and (host is not None or port is not None):
        raise UsageError("--host and --port go with --http")
    if http:
        check_environment(token)
    address = None if not http else (host or "127.0.0.1", 8000 if port is None else port)
    asyncio.run(serve(env, seed, split, record, backend, address, token))


async def serve(
    env: str,
    seed: int,
    split: str,
    path: Path | None,
    backend: str | None,
    address: tuple[str, int] | None,
    token: str | None,
) -> None:
    """Serve on an address, or without one on standard input and output. Raises ``UsageError``."""
    import signal

    from turnwise.envs.errors import UsageError
    from turnwise.envs.local import LocalEnvs

    try:
        from turnwise.envs.adapters.mcp_server import RecordedTurn, episode_server
        from turnwise.envs.adapters.mcp_serving import SESSIONS, serve_http, serve_stdio
    except ModuleNotFoundError as error:
        raise UsageError(f"mcp needs {error.name}: pip install 'turnwise[mcp]'") from None

    async with AsyncExitStack() as stack:
        file = None if path is None else stack.enter_context(path.open("a", buffering=1))

        def record(turn: RecordedTurn) -> None:
            if file is not None:
                file.write(turn.model_dump_json() + "\n")

        envs = await stack.enter_async_context(LocalEnvs(backend=backend, capacity=SESSIONS))
        server = episode_server(envs, env, record=record, seed=seed, split=split)
        if address is None:
            # A thread waits for input, which no cancellation ends. Sandboxes end with their owner anyhow.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            await serve_stdio(server)
        else:
            who = "for every program on this machine" if token is None else "for callers with the token"
            await serve_http(
                server, *address, token, lambda url: click.echo(f"serving {env} at {url}, {who}")
            )
