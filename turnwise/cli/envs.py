"""``turnwise envs``: which environments there are, and what one of them is like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from turnwise.cli.group import Commands

if TYPE_CHECKING:
    from turnwise.envs.env import Env
    from turnwise.envs.types import ToolSpec


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
def envs(context: click.Context) -> None:
    """List environments; `envs show NAME` says what one is like.

    \b
    Examples:
      turnwise envs
      turnwise envs show tools/configdesk
      turnwise envs show 'tools/configdesk?level=3'
    """
    if context.invoked_subcommand is not None:
        return
    from turnwise.envs.env import describe
    from turnwise.envs.registry import env_class, names
    from turnwise.viewer.console import grid, make_console
    from turnwise.viewer.words import first_sentence

    table = grid("environment", "tools", "milestones", "what it is", right=["tools", "milestones"])
    for name in names():
        cls = env_class(name)
        tools, milestones = len(cls.interface.specs), len(cls.milestone_names())
        table.add_row(name, str(tools), str(milestones), first_sentence(describe(cls)))
    make_console().print(table)


@envs.command("show")
@click.argument("name")
@click.option("--split", default="train", show_default=True, help="Where the sample task is from.")
@click.option("--backend", help="Sandbox to start the sample task in; the best one by default.")
def show_env(name: str, split: str, backend: str | None) -> None:
    """Describe an environment: tools, milestones, options and a sample task.

    NAME may carry options, as in 'tools/configdesk?level=3'.
    """
    import asyncio

    from rich.padding import Padding
    from rich.text import Text

    from turnwise.cli.choices import check_backend
    from turnwise.envs.env import describe
    from turnwise.envs.registry import EnvSpec
    from turnwise.viewer.console import make_console, pairs, view_text

    check_backend(backend)
    spec = EnvSpec.parse(name)
    env = spec.make()
    task = env.task_set(split)[0]
    console = make_console()

    def section(title: str, lines: list[tuple[str, str]]) -> None:
        if lines:
            console.print()
            console.print(Text(title, style="bold"))
            console.print(Padding(pairs(lines), (0, 0, 0, 2)))

    console.print(Text(str(spec), style="bold"))
    console.print(Padding(describe(type(env)), (0, 0, 0, 2)))
    section("Tools", [(signature(tool), tool.description) for tool in env.interface.specs])
    section("Milestones", [(m.name, summary(m.function)) for m in env.interface.milestones])
    section("Reward channels", [(name, f"level {level}") for name, level in env.channels().items()])
    section("Options", options(env))
    section("Tasks", [(s, f"{len(env.task_set(s)):,}") for s in ("train", "validation", "test")])
    view = asyncio.run(opening(spec, split, backend))
    section(
        f"A sample task, {task.id}",
        [("instruction", task.public.instruction or "–"), ("first view", view_text(view)), limits(env, task)],
    )


async def opening(spec: Any, split: str, backend: str | None) -> Any:
    """What the agent sees first in the split's first task."""
    from turnwise.envs.local import LocalEnvs

    async with LocalEnvs(backend=backend, capacity=1) as local, local.open(spec, split=split) as session:
        return await session.reset()
