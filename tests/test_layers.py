"""The shape of the code: imports go down, the core needs no optional package, files stay readable."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = ("sandbox", "envs", "agents", "trainer", "viewer", "turnwise")
"""Lowest first; the last is the command line and the public names."""

OPTIONAL = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "tensorboard",
    "pyarrow",
    "vllm",
    "verl",
    "docker",
    "aiohttp",
    "prometheus_client",
    "playwright",
    "wandb",
    "mlflow",
    "gymnasium",
    "mcp",
    "mcp_types",
    "starlette",
    "uvicorn",
    "inspect_ai",
    "pytest",
)
"""Packages that come with an extra only."""

NEEDS_EXTRA = (
    "turnwise.agents.torch",
    "turnwise.agents.torch_policy",
    "turnwise.envs.adapters.gym",
    "turnwise.envs.adapters.mcp_server",
    "turnwise.envs.adapters.mcp_serving",
    "turnwise.envs.serving.connection",
    "turnwise.envs.serving.front",
    "turnwise.envs.serving.metrics",
    "turnwise.envs.openenv.app",
    "turnwise.envs.openenv.sockets",
    "turnwise.envs.serving.operations",
    "turnwise.envs.serving.server",
    "turnwise.envs.swe.grading.judge.nursery",
    "turnwise.envs.swe.grading.judge.plugin",
    "turnwise.envs.swe.grading.judge.program",
    "turnwise.envs.serving.worker",
    "turnwise.sandbox.inspect_provider",
    "turnwise.trainer.batch",
    "turnwise.trainer.begin",
    "turnwise.trainer.checkpoint",
    "turnwise.trainer.compare.compare",
    "turnwise.trainer.imitation",
    "turnwise.trainer.learner",
    "turnwise.trainer.loss",
    "turnwise.trainer.scorers.critics",
    "turnwise.trainer.scorers.implicit",
    "turnwise.trainer.scorers.scorer",
    "turnwise.trainer.scorers.trajectories",
    "turnwise.trainer.setup",
    "turnwise.trainer.sft",
    "turnwise.trainer.train",
    "turnwise.trainer.warm_start",
)
"""Modules, and packages with all that is in them, that cannot be imported without an extra."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


@cache
def modules() -> dict[str, Path]:
    """Every module of the package, by the name it is imported under."""
    found = {}
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            dotted = ".".join(part for part in parts if part != "__init__")
            found[dotted if layer == "turnwise" else f"turnwise.{dotted}"] = path
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def layer_of(module: str) -> str:
    """``turnwise.envs.types`` is in ``envs``; ``turnwise.cli`` and ``turnwise`` are on top."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "turnwise"


def imported(package: str, source: ast.Module) -> Iterator[str]:
    """The dotted names that code in ``package`` depends on, wherever it says so and for whatever purpose.

    A string that is the dotted path of a module counts too: that is how a lazy import hides.
    """
    for node in ast.walk(source):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=base, names=names, level=level):
                start = package.split(".")[: 1 - level or None] if level else []
                yield from (".".join([*start, *([base] if base else []), alias.name]) for alias in names)
            case ast.Constant(value=str(text)) if "." in text and text.partition(":")[0] in modules():
                yield text.partition(":")[0]


def upward(module: str, source: ast.Module) -> list[str]:
    """The imports of a module that reach into a higher layer."""
    is_package = modules()[module].name == "__init__.py"
    package = module if is_package else module.rpartition(".")[0]
    own = LAYERS.index(layer_of(module))
    return [
        name
        for name in imported(package, source)
        if name.split(".")[0] == "turnwise" and LAYERS.index(layer_of(name)) > own
    ]


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module: str) -> None:
    assert upward(module, tree(modules()[module])) == []


@pytest.mark.parametrize(
    "line",
    [
        "import turnwise.trainer",
        "from turnwise import trainer",
        "from turnwise.agents import policy",
        "from .. import agents",
        "from ..agents.policy import Policy",
        "from turnwise import train",
        "def f():\n    import turnwise.agents",
        "if TYPE_CHECKING:\n    from turnwise.agents.policy import Policy",
        "importlib.import_module('turnwise.agents.policy')",
        "LAZY = {'kind': 'turnwise.agents.policy:Policy'}",
    ],
)
def test_an_upward_import_is_seen(line: str) -> None:
    assert upward("turnwise.envs.session", ast.parse(line))


@pytest.mark.parametrize(
    "line", ["from turnwise.sandbox import contract", "from .types import Task", "import os"]
)
def test_a_downward_import_is_allowed(line: str) -> None:
    assert upward("turnwise.envs.session", ast.parse(line)) == []


def python_files() -> list[Path]:
    folders = [*LAYERS, "tests", "benchmarks", "docs", "scripts"]
    return sorted({path.resolve() for folder in folders for path in (ROOT / folder).rglob("*.py")})


def test_nobody_imports_the_bare_names() -> None:
    """``import envs`` would be a second copy of ``turnwise.envs``, or a stranger's package."""
    bare = set(LAYERS) - {"turnwise"}
    offences = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in python_files()
        for name in imported("", tree(path))
        if name.split(".")[0] in bare
    ]
    assert offences == []


@pytest.mark.parametrize("package", [layer for layer in LAYERS if layer != "turnwise"])
def test_the_linter_bans_the_bare_name(package: str) -> None:
    for line in (f"import {package}\n", f"from {package}.types import Task\n"):
        result = subprocess.run(
            [
                sys.executable,
                "-m",
                "ruff",
                "check",
                "--stdin-filename",
                str(ROOT / "trainer/example.py"),
                "-",
            ],
            input=line,
            text=True,
            capture_output=True,
            cwd=ROOT,
        )
        assert "TID251" in result.stdout
        assert f"turnwise.{package}" in result.stdout


WITHOUT_OPTIONAL = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {OPTIONAL!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)

sys.meta_path.insert(0, Absent())
failures = []
for module in sys.argv[1:]:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        failures.append(f"{{module}}: {{error}}")
print("\\n".join(failures))
"""


def imports_without_optional(names: list[str]) -> list[str]:
    """Which of the modules fail to import, and why, where no extra is installed."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_OPTIONAL, *names],
        text=True,
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split("\n")[:-1] if result.stdout.strip() else []


def needs_extra(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in NEEDS_EXTRA)


def test_the_core_imports_without_any_extra() -> None:
    assert imports_without_optional([name for name in modules() if not needs_extra(name)]) == []


def test_modules_said_to_need_an_extra_do() -> None:
    failures = imports_without_optional(list(NEEDS_EXTRA))
    assert [failure.partition(":")[0] for failure in failures if "(blocked)" in failure] == list(NEEDS_EXTRA)


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_every_module_says_what_it_is(module: str) -> None:
    docstring = ast.get_docstring(tree(modules()[module])) or ""
    assert len(docstring.split()) >= 3, "a module's docstring says what it is for and how it works"


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {path.parent for path in modules().values()}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []
