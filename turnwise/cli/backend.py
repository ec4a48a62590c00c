"""The option ``--backend``: a sandbox backend that runs here, which is found out before anything begins."""

from __future__ import annotations

import click


def _running(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """Raises ``UsageError`` for one that does not run, and for a name that is none."""
    if name is None:
        return None
    from turnwise.envs.errors import UsageError
    from turnwise.sandbox.backends import require
    from turnwise.sandbox.contract import BackendUnavailable

    try:
        require(name)
    except (ValueError, BackendUnavailable) as error:
        raise UsageError(str(error)) from None
    return name


backend_option = click.option(
    "--backend",
    callback=_running,
    help="The sandbox to run in: namespaces, docker, docker:RUNTIME or process; the best one by default.",
)
