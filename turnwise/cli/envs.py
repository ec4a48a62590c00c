"""``turnwise envs``: which environments there are, and what one of them is like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from turnwise.cli.backend import backend_option
from turnwise.cli.group import Commands

if TYPE_CHECKING:
    from turnwise.envs.env import Env
    from turnwise.envs.registry import EnvSpec
    from turnwise.envs.types import AgentView, ToolSpec

LOOKED_AT = 500
"""Tasks of a split that are looked at for how their grades are protected."""


@click.group(cls=Commands, invoke_without_command=True, short_help="List environments, or show one.")
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
    from inspect import getdoc

    from turnwise.envs.registry import env_class, names
    from turnwise.viewer.console import grid, make_console
    from turnwise.viewer.words import first_sentence

    table = grid("environment", "tools", "milestones", "what it is", right=["tools", "milestones"])
    for name in names():
        cls = env_class(name)
        tools, milestones = len(cls.interface.specs), len(cls.milestone_names())
        table.add_row(name, str(tools), str(milestones), first_sentence(getdoc(cls) or cls.description))
    make_console().print(table)


@envs.command("show")
@click.argument("name")
@click.option("--split", default="train", show_default=True, help="Where the sample task is from.")
@backend_option
def show_env(name: str, split: str, backend: str | None) -> None:
    """Describe an environment: tools, milestones, options and a sample task.

    NAME may carry options, as in 'tools/configdesk?level=3'.
    """
    import asyncio

    from rich.padding import Padding
    from rich.text import Text

    from turnwise.envs.env import describe
    from turnwise.envs.registry import EnvSpec
    from turnwise.envs.types import SPLITS
    from turnwise.viewer.console import make_console, pairs, view_text

    spec = EnvSpec.parse(name)
    env = spec.make()
    task = env.task_set(split).nth(0)
    view = asyncio.run(opening(spec, split, backend))
    console = make_console()

    def section(title: str, lines: list[tuple[str, str]]) -> None:
        if lines:
            console.print()
            console.print(Text(title, style="bold"))
            console.print(Padding(pairs(lines), (0, 0, 0, 2)))

    console.print(Text(str(spec), style="bold"))
    console.print(Padding(describe(type(env)), (0, 0, 0, 2)))
    section("Tools", [(signature(tool), tool.description) for tool in env.interface.specs])
    section(
        "Milestones",
        [(m.name, " ".join((m.function.__doc__ or "").split())) for m in env.interface.milestones],
    )
    section("Reward channels", [(name, f"level {level}") for name, level in env.channels().items()])
    section("Options", options(env))
    section("Tasks", [(part, tasks_line(env, part)) for part in SPLITS])
    section(
        f"A sample task, {task.id}",
        [("instruction", task.public.instruction or "–"), ("first view", view_text(view))],
    )


def tasks_line(env: Env, split: str) -> str:
    """How many tasks a split has, and how their grades are protected where that differs between tasks."""
    from collections import Counter

    from turnwise.viewer.console import told

    tasks = env.task_set(split)
    looked_at = tasks[:LOOKED_AT]
    graded = Counter(found for task in looked_at if (found := env.assurance(task)))
    of = f" of the first {LOOKED_AT:,}" if len(tasks) > LOOKED_AT else ""
    return f"{len(tasks):,}" + (f", graded{of}: {told(graded)}" if graded else "")


async def opening(spec: EnvSpec, split: str, backend: str | None) -> AgentView:
    """What the agent sees first in the split's first task."""
    from turnwise.envs.local import LocalEnvs

    async with LocalEnvs(backend=backend, capacity=1) as local, local.open(spec, split=split) as session:
        return await session.reset()


def signature(tool: ToolSpec) -> str:
    """A tool with its arguments, as in ``set(key: string, value: string)``."""
    schema: dict[str, Any] = tool.parameters
    required = schema.get("required", [])
    arguments = [
        f"{name}{'' if name in required else '?'}: {entry.get('type', 'any')}"
        for name, entry in schema.get("properties", {}).items()
    ]
    return f"{tool.name}({', '.join(arguments)})"


def options(env: Env) -> list[tuple[str, str]]:
    """What can be chosen when the environment is opened."""
    properties = type(env.options).model_json_schema().get("properties", {})
    lines = []
    for name, entry in properties.items():
        bounds = [f"{entry[key]}" for key in ("minimum", "maximum") if key in entry]
        words = [entry.get("type", ""), f"from {' to '.join(bounds)}" if len(bounds) == 2 else ""]
        words += [f"one of {', '.join(map(str, entry['enum']))}" if "enum" in entry else ""]
        words += [f"here {getattr(env.options, name)}", entry.get("description", "")]
        lines.append((name, ", ".join(word for word in words if word)))
    return lines
