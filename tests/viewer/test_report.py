"""The report: whole at every stage of a run, self-contained, and deaf to what an agent wrote."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser

import pytest

from turnwise.envs.errors import UsageError
from turnwise.viewer.report import write_report

VOID = {"meta", "br", "img", "input"}
HOSTILE = "</div></td></table><script>alert(1)</script><img src=http://evil.example/x.png>"


class Page(HTMLParser):
    """A parsed page; fails for a tag that is closed out of order or never."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self._open[-1:] == ["script"] else self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def attributes(self, *names: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in names]


def page_of(maker) -> Page:
    return Page(write_report(maker.path).read_text(encoding="utf-8"))


def test_a_finished_run_shows_result_curves_credit_episodes_and_recipe(run) -> None:
    page = page_of(run)
    assert "55% 95% interval 43–67%, 64 tasks of test" in page.text
    assert "16 episodes" in page.text
    assert "512 MB" in page.text
    for title in ("Success", "Milestones reached", "Completion and validity", "Turns per episode"):
        assert title in page.text
    assert "step 2, turn 1 advantage, all episodes +0.000, 2 turns" in page.text
    assert "step 2, turn 4 advantage, all episodes -1.000, 1 turns" in page.text
    assert "step 2, turn 1 spread of advantage +1.000, 2 turns" in page.text
    assert "step 2, turn 1 mean reward +0.250, 2 turns" in page.text
    assert "train-2/0-0" in page.text
    assert "kind: turn_baseline" in page.text


def test_advantages_that_cancel_are_no_map_and_are_shown_of_the_better_episodes(begun) -> None:
    """As where a turn is compared with the same turn of its group: what is left is rounding."""
    pay = {"0-0": (1.0, 0.300001), "0-1": (0.0, -0.3), "1-0": (1.0, -0.2), "1-1": (1.0, 0.2)}
    credit = [
        {"episode_id": f"train-1/{name}", "columns": {"step_reward": [0.0, paid], "advantage": [given, 0.0]}}
        for name, (paid, given) in pay.items()
    ]
    (begun.path / "credit").mkdir()
    (begun.path / "credit/step-000001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in credit))
    page = page_of(begun)
    assert "step 1, turn 1 advantage, better episodes +0.300, 1 turns" in page.text
    assert "all episodes" not in page.text
    assert "step 1, turn 2 mean reward +0.750, 4 turns" in page.text


def test_the_page_loads_nothing_from_elsewhere(run) -> None:
    page = page_of(run)
    links = page.attributes("href", "src", "action", "srcset", "xlink:href")
    assert links
    assert not [link for link in links if re.match(r"(\w+:)?//", link)]
    style = (run.path / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    assert all((run.path / link).exists() for link in links)


def test_what_an_agent_wrote_is_text(run, episode) -> None:
    run.trained(2, episode("train-2/0-0", score=1.0, observation=HOSTILE))
    page = page_of(run)
    assert HOSTILE in "".join(page.words)
    assert "http://evil.example/x.png" not in page.attributes("src")
    (script,) = page.scripts
    known = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert f"script-src 'sha256-{known}'" in (policy or "")


def test_a_run_that_has_just_begun_has_a_report(begun) -> None:
    page = page_of(begun)
    assert "not evaluated yet" in page.text
    assert "has not ended" in page.text
    assert "How it learned" not in page.text


def test_one_step_without_evaluation_is_enough(begun, rows) -> None:
    train_row, _ = rows
    begun.rows(train_row(1))
    page = page_of(begun)
    assert "step 1 training: 11%" in page.text
    assert "Evaluations" not in page.text


def test_an_evaluation_without_a_scored_episode_is_left_out(begun, rows) -> None:
    _, evaluation_row = rows
    row = evaluation_row(0)
    del row["success"]
    begun.rows(row)
    assert "not evaluated yet" in page_of(begun).text


def test_a_warm_start_alone_is_drawn(begun, rows) -> None:
    _, evaluation_row = rows
    clock = {"wall_seconds": 1.0, "cpu_seconds": 1.0}
    for number, success in ((1, 0.0), (2, 0.08)):
        begun.rows(
            {"kind": "warm_start", "step": 0, "round": number, "loss": 1.0, "success": success} | clock
        )
    begun.rows(evaluation_row(0))
    page = page_of(begun)
    assert "warm start, round 1 warm start: 0%" in page.text
    assert "warm start, round 2 warm start: 8% validation: 55% (43% to 67%)" in page.text


def test_a_resumed_run_says_so_and_counts_a_step_once(run, rows) -> None:
    train_row, _ = rows
    run.rows({"kind": "resume", "step": 1, "wall_seconds": 0.0, "cpu_seconds": 0.0})
    run.rows(train_row(2, success=0.77))
    page = page_of(run)
    assert "Resumed at step 1." in page.text
    assert "step 2 training: 77%" in page.text
    assert "training: 12%" not in page.text


def test_a_reader_learns_what_was_left_out_and_what_was_warned_of(run, rows) -> None:
    train_row, _ = rows
    run.rows(train_row(3, excluded={"infra_error": 2}), train_row(4, excluded={"infra_error": 1}))
    run.rows({"kind": "warning", "step": 4, "reason": "completion fell to 20% from 90%"})
    run.finished(stopped="log-probabilities differ")
    page = page_of(run)
    assert "3 × infra_error" in page.text
    assert "Warning at step 4: completion fell to 20% from 90%." in page.text
    assert "Stopped early: log-probabilities differ." in page.text


def test_a_long_run_is_drawn_as_means_over_steps(begun, rows) -> None:
    train_row, _ = rows
    begun.rows(*(train_row(step) for step in range(1, 10_001)))
    page = page_of(begun)
    assert "the mean of 50 steps" in page.text
    assert (begun.path / "report.html").stat().st_size < 1_000_000


def test_a_torn_last_line_is_a_line_not_written(run) -> None:
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    assert "16 episodes" in page_of(run).text


def test_a_broken_line_before_the_last_is_named(run) -> None:
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1][:20]
    (run.path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UsageError, match=r"metrics\.jsonl: line 2 is not JSON"):
        write_report(run.path)


def test_a_folder_that_is_no_run_is_refused(run) -> None:
    with pytest.raises(UsageError, match=r"did you mean '.*runs/whole'"):
        write_report(run.path.parent / "whloe")
    with pytest.raises(UsageError, match=r"no config\.yaml"):
        write_report(run.path.parent)
