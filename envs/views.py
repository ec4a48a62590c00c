"""What an agent is shown, put together: views one after another, a grade's reason, long text cut."""

from __future__ import annotations

from collections.abc import Sequence

from turnwise.envs.types import AgentView, Grade, TextBlock


def cut(view: AgentView, room: int) -> AgentView:
    """Text of more than ``room`` characters is cut in the middle, and says so."""
    if all(not isinstance(b, TextBlock) or len(b.text) <= room for b in view.content):
        return view
    blocks = []
    for block in view.content:
        if isinstance(block, TextBlock) and len(block.text) > room:
            half = room // 2
            gone = len(block.text) - 2 * half
            block = TextBlock(text=f"{block.text[:half]}\n[… {gone} characters cut …]\n{block.text[-half:]}")
        blocks.append(block)
    return view.model_copy(update={"content": tuple(blocks)})


def with_reason(view: AgentView, grade: Grade | None) -> AgentView:
    """What the agent is told of its grade comes last."""
    if grade is None or not grade.reason:
        return view
    return view.model_copy(update={"content": (*view.content, TextBlock(text=grade.reason))})


def joined(views: Sequence[AgentView]) -> AgentView:
    """Views one after another, as one."""
    if len(views) == 1:
        return views[0]
    return AgentView(content=tuple(block for view in views for block in view.content))
