"""Going through a recorded episode by hand, against the live environment.

A session of the same task is opened. At each turn the recorded action can be replayed or another call
typed in its place; what the environment answers now stands beside what was recorded.
"""

from __future__ import annotations

import asyncio
import sys

from rich.console import Console
from rich.text import Text

from turnwise.agents.renderer import FINISH, Signature, split_words
from turnwise.agents.trajectory import Turn
from turnwise.envs.env import Env
from turnwise.envs.local import LocalEnvs, find_task
from turnwise.envs.registry import EnvSpec
from turnwise.envs.session import Session
from turnwise.envs.types import Action, EpisodeLimits, FinishAction, Step, Task, TextAction
from turnwise.viewer.console import headline, view_text
from turnwise.viewer.run_folder import Shown
from turnwise.viewer.words import action_text, printable, signed

A_DAY = 86_400.0
"""Time allowed for going through an episode by hand, in seconds."""
HELP = "Enter: do what was done · {example}: do that instead · q: quit"


async def step_through(console: Console, spec: EnvSpec, shown: Shown, backend: str | None) -> None:
    """Ask for an action at each turn until the episode ends or the user quits."""
    env = spec.make()
    task = unhurried(env, await find_task(env, shown.episode.task))
    async with LocalEnvs(backend=backend, capacity=1) as envs, envs.open(spec, task=task) as session:
        view = await session.reset()
        console.print(Text(headline(shown.episode), style="bold"))
        console.print(Text(view_text(view)))
        console.print(Text(HELP.format(example=usage(env)), style="dim"))
        while session.end is None:
            recorded = shown.episode.turns[session.turn] if session.turn < len(shown.episode.turns) else None
            tell_turn(console, session.turn, recorded, shown)
            action = await choose(console, session, recorded)
            if action is None:
                return
            tell_step(console, await session.step(action), recorded)
        now = "not scored" if session.score is None else f"score {session.score:g}"
        then = "not scored" if shown.episode.score is None else f"score {shown.episode.score:g}"
        console.print(f"\nThe end: {str(session.end).replace('_', ' ')}, {now} (recorded: {then}).")


def unhurried(env: Env, task: Task) -> Task:
    """The task with a day's time, everything else as it was."""
    own = task.public.limits
    limits = (env.limits if own == EpisodeLimits() else own).model_copy(update={"seconds": A_DAY})
    return task.model_copy(update={"public": task.public.model_copy(update={"limits": limits})})


def tell_turn(console: Console, index: int, recorded: Turn | None, shown: Shown) -> None:
    """What was done at this turn, and what it was worth."""
    if recorded is None:
        console.print(f"\nturn {index + 1}   the recording has ended", style="bold")
        return
    worth = f"reward {signed(shown.reward(index))}  advantage {signed(shown.at('advantage', index))}"
    done = printable(action_text(recorded))
    console.print(Text.assemble("\n", (f"turn {index + 1}   ", "bold"), done))
    console.print(Text(f"         {worth}", style="dim"))


async def choose(console: Console, session: Session, recorded: Turn | None) -> Action | None:
    """The action to take; None to quit."""
    while True:
        line = await read_line(console)
        if line is None or line.strip().lower() in ("q", "quit"):
            return None
        if line.strip():
            try:
                return read_action(line.strip(), session.env)
            except ValueError as error:
                console.print(f"{error} (tools: {', '.join(session.env.interface.tools)})", style="red")
        elif recorded is not None:
            return recorded.action
        else:
            console.print("nothing is recorded here: type a call, or q", style="red")


def read_action(line: str, env: Env) -> Action:
    """A typed line as an action; an environment without tools is spoken to. Raises ``ValueError``."""
    signatures = {spec.name: Signature.of(spec) for spec in env.interface.specs}
    if not signatures:
        return TextAction(text=line)
    name, *words = split_words(line)
    if name in signatures:
        return signatures[name].read(words)
    if name == FINISH:
        return FinishAction(answer=" ".join(words))
    raise ValueError(f"unknown tool {name}")


def usage(env: Env) -> str:
    """What may be typed, as in ``open FILE``."""
    if not env.interface.specs:
        return "any words"
    signature = Signature.of(env.interface.specs[0])
    return " ".join(["a call, as in", signature.name, *(p.name.upper() for p in signature.parameters)])


async def read_line(console: Console) -> str | None:
    """A line from the user; None at the end of input. On a terminal the event loop goes on meanwhile."""
    console.print("> ", end="")
    if sys.stdin.isatty():
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(sys.stdin.fileno(), ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(sys.stdin.fileno())
    line = sys.stdin.readline()
    if not sys.stdin.isatty():
        console.print(printable(line.rstrip("\n")))
    return line.rstrip("\n") if line else None


def tell_step(console: Console, step: Step, recorded: Turn | None) -> None:
    """What the environment answered now, and beside it what was recorded where that differs."""
    assert step.record is not None
    now = view_text(step.view)
    then = view_text(recorded.observation) if recorded is not None else None
    console.print(Text.assemble(("now       ", "dim"), indented(now)))
    if then == now:
        console.print(Text("recorded  the same", style="dim"))
    elif then is not None:
        console.print(Text.assemble(("recorded  ", "dim"), indented(then)), style="yellow")
    for name in step.record.milestones:
        console.print(Text(f"          ✓ {name.replace('_', ' ')}", style="green"))
    if step.record.error:
        console.print(Text(f"          ✗ {printable(step.record.error)}", style="red"))


def indented(content: str) -> str:
    """Text below a label of ten characters."""
    return content.replace("\n", "\n" + " " * 10)
