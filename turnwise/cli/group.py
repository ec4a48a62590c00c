"""A group of commands that names the nearest match for what it does not know."""

from __future__ import annotations

import click


class Commands(click.Group):
    """Commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Not sorted: the order is that of use."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command. Raises ``UsageError`` naming the nearest match."""
        if args[0] not in self.commands and not args[0].startswith("-"):
            from turnwise.envs.errors import unknown

            raise unknown("command", args[0], self.commands)
        return super().resolve_command(ctx, args)
