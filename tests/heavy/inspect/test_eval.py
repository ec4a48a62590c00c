"""Evaluations of Inspect AI in our sandboxes, which it finds by their name alone."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from inspect_ai import Task, eval  # noqa: A004
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog
from inspect_ai.scorer import Score, Target, accuracy, scorer
from inspect_ai.solver import Generate, TaskState, solver
from inspect_ai.util import OutputLimitExceededError, SandboxEnvironmentSpec, sandbox

from turnwise.sandbox import Limits
from turnwise.sandbox.inspect_provider import SandboxConfig

pytestmark = pytest.mark.filterwarnings("ignore")  # what Inspect warns of in its own code


@pytest.fixture(autouse=True)
def logs_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSPECT_LOG_DIR", str(tmp_path))


@solver
def shell(command: str):
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        try:
            state.store.set("printed", (await sandbox().exec(["sh", "-c", command], timeout=60)).stdout)
        except OutputLimitExceededError as error:
            state.store.set("printed", f"more than {error.limit_str}")
        return state

    return solve


@scorer(metrics=[accuracy()])
def printed():
    async def score(state: TaskState, target: Target) -> Score:
        return Score(value=float(state.store.get("printed") == target.text))

    return score


def run(environment: object, command: str, expected: str) -> EvalLog:
    """Two samples at once in sandboxes of their own; each runs a command that should print a text."""
    files = {"given": "a file of the sample"}
    samples = [Sample("run it", target=expected, id=number, files=files) for number in (1, 2)]
    task = Task(samples, solver=shell(command), scorer=printed(), sandbox=environment)
    try:
        (log,) = eval(task, model="mockllm/model", display="none")
    finally:
        gc.collect()  # streams that Inspect leaves open are told of here
    return log


def accuracy_of(log: EvalLog) -> float:
    assert log.status == "success", log.error
    return log.results.scores[0].metrics["accuracy"].value


def children() -> set[str]:
    return {
        child for file in Path("/proc/self/task").glob("*/children") for child in file.read_text().split()
    }


def spec(**fields: object) -> SandboxEnvironmentSpec:
    return SandboxEnvironmentSpec("turnwise", SandboxConfig.model_validate(fields))


@pytest.mark.parametrize("environment", ["turnwise", spec(backend="process")], ids=["name", "config"])
def test_samples_are_solved_in_sandboxes_that_end_with_the_evaluation(environment: object) -> None:
    before = children()
    once = "test ! -e mark && touch mark && tr a-z A-Z <given"
    assert accuracy_of(run(environment, once, "A FILE OF THE SAMPLE")) == 1.0
    assert children() <= before


def test_too_much_output_is_told() -> None:
    log = run(spec(limits=Limits(output=4096)), "yes | head -c 100000", "more than 4,096 bytes")
    assert accuracy_of(log) == 1.0


def test_a_file_configures_it(tmp_path: Path) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text("limits: {file_size: 1000}\n")
    command = "head -c 5000 /dev/zero >large; stat -c %s large"
    assert accuracy_of(run(("turnwise", str(file)), command, "1000\n")) == 1.0


@pytest.mark.parametrize(
    ("line", "said"), [("backend: dcoker", "is none of namespaces"), ("memroy: 5", "memroy")]
)
def test_a_mistake_in_the_file_is_named(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "sandbox.yaml"
    file.write_text(line)
    with pytest.raises(ValueError, match=said):
        run(("turnwise", str(file)), "true", "")
