"""An audit in the terminal: the scores side by side, every failure by name, residue apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from turnwise.agents.audit import AgentScore, Audit, CheatScore
from turnwise.viewer.console import grid
from turnwise.viewer.words import clip, percent, printable

DETAIL_ROOM = 120


def audit_report(result: Audit) -> RenderableType:
    """Agents and mechanisms with their scores, then what is wrong, then the residue."""
    table = grid("", "tried", "scored", "verdict", right=["tried", "scored"])
    for name, agent, wanted in (("oracle", result.oracle, 1.0), ("does nothing", result.noop, 0.0)):
        table.add_row(name, str(len(agent.tasks)), _score(agent), _verdict(agent.score == wanted))
    groups: dict[str, list[CheatScore]] = defaultdict(list)
    for cheat in result.cheats:
        groups[cheat.group].append(cheat)
    for name, cheats in groups.items():
        passed = sum(cheat.score != 0.0 for cheat in cheats)
        table.add_row(name, str(len(cheats)), str(passed), _verdict(not passed))
    parts: list[RenderableType] = [table, Text("")]
    if result.faults:
        parts.append(Text(f"{len(result.faults)} wrong:", style="bold red"))
        parts += [Padding(Text(printable(fault)), (0, 0, 0, 2)) for fault in result.faults]
    else:
        parts.append(
            Text(
                f"sound: the oracle scores, and none of {len(result.cheats)} cheats does", style="bold green"
            )
        )
    return Group(*parts, *_residue(result.residue))


def _residue(cheats: Sequence[CheatScore]) -> list[RenderableType]:
    if not cheats:
        return []
    table = grid("residue", "task", "score", "why", right=["residue", "score"])
    table.columns[0].justify = "left"
    for cheat in cheats:
        score = "–" if cheat.score is None else f"{cheat.score:g}"
        table.add_row(cheat.name, cheat.task, score, printable(clip(cheat.detail, DETAIL_ROOM)))
    return [Text("\nWhat no grader of the kind can refuse, not counted above:"), table]


def _score(agent: AgentScore) -> str:
    return "–" if agent.score is None else percent(agent.score)


def _verdict(right: bool) -> Text:
    return Text("✓", style="green") if right else Text("✗", style="red")
