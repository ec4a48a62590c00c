"""``turnwise serve``: environments for programs elsewhere."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from turnwise.cli.backend import backend_option
from turnwise.cli.token import VARIABLE, check_environment

if TYPE_CHECKING:
    from turnwise.envs.serving.front import Front
    from turnwise.envs.serving.logs import Level, Style
    from turnwise.envs.serving.server import EnvServer
    from turnwise.envs.serving.tokens import Tokens

FILE = click.Path(path_type=Path)


class Seconds(click.FloatRange):
    """A time that ends."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails for infinity, and for what is no number."""
        seconds = float(super().convert(value, param, ctx))
        if not math.isfinite(seconds):
            self.fail(f"{value!r} is no number of seconds.", param, ctx)
        return seconds


SECONDS = Seconds(min=0)


def size(context: click.Context, option: click.Parameter, value: str) -> int:
    """The bytes that are meant, with a unit or without."""
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(value))
    except ValidationError:
        said = f"{value!r} is no size; write bytes, or such as 512MiB or 2GiB"
        raise click.BadParameter(said, context, option) from None


@click.command(short_help="Serve environments to other programs.")
@click.argument("envs", metavar="ENV...", nargs=-1, required=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", default=8000, type=click.IntRange(0, 65535), show_default=True, help="0: any free one."
)
@click.option("--token", envvar=VARIABLE, help=f"The trainer's; better in {VARIABLE}.")
@click.option("--token-file", type=FILE, help="Lines 'ROLE TOKEN': trainer, grader, admin.")
@click.option("--tls-cert", type=FILE, help="Certificate (PEM), to serve https.")
@click.option("--tls-key", type=FILE, help="The certificate's key.")
@click.option("--sessions", default=128, show_default=True, help="Open at once; more wait.")
@click.option(
    "--workers",
    default=1,
    type=click.IntRange(min=1),
    show_default=True,
    help="Processes that share them, up to 256.",
)
@click.option("--replica", metavar="N/OF", help="Which of equal servers behind one proxy, such as 1/2.")
@click.option("--patience", default=600.0, type=SECONDS, show_default=True, help="Seconds they wait.")
@click.option(
    "--lease", default=60.0, type=SECONDS, show_default=True, help="Seconds a dropped client may stay away."
)
@click.option("--max-age", type=SECONDS, help="Seconds after which a session is closed.  [default: none]")
@click.option(
    "--session-memory",
    default="1GiB",
    metavar="SIZE",
    callback=size,
    show_default=True,
    help="What a session's environment may hold in its worker; one that holds more is ended.",
)
@click.option("--journal", type=FILE, help="Folder to write every call to, for `turnwise replay`.")
@click.option(
    "--drain", default=20.0, type=SECONDS, show_default=True, help="Seconds sessions have left at SIGTERM."
)
@backend_option
@click.option(
    "--log", default="text", type=click.Choice(["text", "json"]), show_default=True, help="Its style."
)
@click.option(
    "--log-level",
    default="info",
    type=click.Choice(["debug", "info", "warning", "error"]),
    show_default=True,
    help="The least that is logged.",
)
def serve(
    envs: tuple[str, ...],
    token: str | None,
    token_file: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    drain: float,
    workers: int,
    replica: str | None,
    log: Style,
    log_level: Level,
    **options: Any,
) -> None:
    """Serve environments until Ctrl-C, which closes every session, or SIGTERM, which first lets them end.

    Without a token every program on this machine is the trainer, and other machines are refused. An ENV with
    options, as in 'tools/configdesk?level=2', is served with those alone, one without with any.

    \b
    Examples:
      turnwise serve tools/configdesk
      TURNWISE_TOKEN=$(openssl rand -hex 32) turnwise serve tools/configdesk --host 0.0.0.0
    """
    import asyncio

    with ending_quietly():
        given = tokens(token, token_file)
        options |= {"token": given, "tls": pair(tls_cert, tls_key)}
        server = make_server(envs, workers, replica, (log, log_level), options)
        from turnwise.envs.serving.logs import writing_log

        with writing_log(log, log_level):
            asyncio.run(until_stopped(server, ", ".join(envs), drain=drain, open_to_all=given is None))


@contextmanager
def ending_quietly() -> Iterator[None]:
    """SIGTERM ends the command without a word, also before the server knows what to do then."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def make_server(
    envs: tuple[str, ...],
    workers: int,
    replica: str | None,
    log: tuple[Style, Level],
    options: dict[str, Any],
) -> EnvServer | Front:
    """The server that is asked for. Raises ``UsageError``."""
    from turnwise.envs.errors import UsageError
    from turnwise.envs.serving.routing import Replica

    try:
        from turnwise.envs.serving.front import Front
        from turnwise.envs.serving.server import EnvServer
    except ModuleNotFoundError as error:
        raise UsageError(f"serve needs {error.name}: pip install 'turnwise[server]'") from None
    which = Replica() if replica is None else Replica.parse(replica)
    if workers == 1:
        return EnvServer(envs, place=which.place(which.number - 1, 1), **options)
    return Front(envs, workers=workers, replica=which, log=log, **options)


def pair(certificate: Path | None, key: Path | None) -> tuple[Path, Path] | None:
    """Both files, or none. Raises ``UsageError``."""
    from turnwise.envs.errors import UsageError

    if certificate is not None and key is not None:
        return certificate, key
    if certificate is not key:
        raise UsageError("give --tls-cert and --tls-key together")
    return None


def tokens(token: str | None, file: Path | None) -> str | Tokens | None:
    """The trainer's token, or all roles' where there is a file. Raises ``UsageError``."""
    check_environment(token)
    if file is None:
        return token
    from turnwise.envs.serving.tokens import Tokens

    return Tokens.read(file, token)


async def until_stopped(server: EnvServer | Front, names: str, *, drain: float, open_to_all: bool) -> None:
    """Serve until a signal. SIGTERM lets sessions end first; another signal, or Ctrl-C, ends at once. One
    that comes while the server starts ends the start."""
    import asyncio
    from contextlib import AsyncExitStack

    term, stop, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if number == signal.SIGINT or term.is_set():
            stop.set()
        term.set()

    signals = (signal.SIGINT, signal.SIGTERM)
    for number in signals:
        loop.add_signal_handler(number, on_signal, number)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        starting = tasks.create_task(stack.enter_async_context(server))
        signalled = tasks.create_task(term.wait())
        await asyncio.wait([starting, signalled], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        who = "every program on this machine is the trainer" if open_to_all else "callers need a token"
        calm_collector()
        click.echo(f"serving {names} at {server.url}; {who}")
        await signalled
        draining = tasks.create_task(server.drain(drain))
        draining.add_done_callback(lambda _: stop.set())
        await stop.wait()
        draining.cancel()
        for number in signals:
            loop.remove_signal_handler(number)


def calm_collector() -> None:
    """Let Python's collector of garbage leave alone what there is from the start, and look at the rest less
    often: a look at everything holds up every session for a tenth of a second."""
    import gc

    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
