"""Environments by name: what is found, what is refused, and with which words."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import Field

from turnwise.envs.env import Env, describe
from turnwise.envs.errors import UsageError
from turnwise.envs.registry import EnvSpec, env_class, load_plugins, names, register
from turnwise.envs.tasks import TaskSet, seeds
from turnwise.envs.types import AgentView, Model, Task, text


class DialOptions(Model):
    level: int = Field(default=1, ge=1, le=5)
    loud: bool = False


@register
class Dial(Env):
    """Turn a dial."""

    name = "test/dial"
    Options = DialOptions

    def tasks(self, split: str) -> TaskSet:
        return seeds(split, 1)

    async def reset(self, task: Task) -> AgentView:
        return text("turn it")

    async def grade(self) -> float:
        return 0.0


def refusal(spec: str) -> str:
    """What a user is told, which is always a single line."""
    with pytest.raises(UsageError) as told:
        EnvSpec.parse(spec).make()
    assert "\n" not in str(told.value)
    return str(told.value)


def test_options_come_with_the_name() -> None:
    assert EnvSpec.parse("test/dial").make().options == DialOptions()
    assert EnvSpec.parse("test/dial?level=4&loud=true").make().options == DialOptions(level=4, loud=True)
    spec = EnvSpec(name="test/dial", options={"level": 2})
    assert EnvSpec.parse(spec) is spec
    assert EnvSpec.parse(str(spec)).make().options.level == 2


def test_a_built_in_environment_is_known_without_being_imported() -> None:
    assert "tools/configdesk" in names()
    assert env_class("tools/configdesk").__name__ == "ConfigDesk"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("tools/configdesc", ["environment 'tools/configdesc'", "did you mean 'tools/configdesk'"]),
        ("zzz", ["environment 'zzz'", "allowed: ", "test/dial"]),
        ("", ["environment ''"]),
        ("test/dial?levle=2", ["options of test/dial", "'levle'", "did you mean 'level'", "level, loud"]),
        ("test/dial?level=9", ["options of test/dial", 'level = "9"', "less than or equal to 5"]),
        ("test/dial?level=two", ['level = "two"', "integer"]),
        ("test/dial?level", ["'test/dial?level'", "name?key=value"]),
        ("test/dial?level=1&level=2", ["'test/dial?level=1&level=2'", "level twice"]),
    ],
)
def test_bad_names_and_options_are_refused_in_one_line(spec: str, words: list[str]) -> None:
    told = refusal(spec)
    assert all(word in told for word in words), told


@pytest.mark.parametrize("name", ["", "dial", "a/b/c", "/dial", "test/", "test/dial?x=1", "test/d l"])
def test_a_malformed_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"Odd: name {re.escape(repr(name))} must look like 'family/name'"):
        register(type("Odd", (Env,), {"name": name}))


def test_a_name_belongs_to_one_class() -> None:
    other = type("Other", (Dial,), {"name": "test/dial"})
    with pytest.raises(UsageError, match=r"'test/dial' is taken by .*test_registry\.Dial"):
        register(other)
    again = type("Dial", (Dial,), {"name": "test/dial", "__module__": __name__, "__qualname__": "Dial"})
    try:
        assert env_class(register(again).name) is again  # a cell of a notebook that is run again
    finally:
        register(globals()["Dial"])


def test_what_an_episode_needs_and_is_not_there_is_named() -> None:
    class Half(Env):
        name = "test/half"

        def tasks(self, split: str) -> TaskSet:
            return seeds(split, 1)

    with pytest.raises(UsageError, match=r"test/half: Half must define reset\(\) and grade\(\)"):
        register(Half)
    assert "test/half" not in names()


def test_the_name_of_a_built_in_environment_is_not_to_be_had() -> None:
    with pytest.raises(UsageError, match=r"'tools/configdesk' is taken by turnwise\.envs\.tools"):
        register(type("Fake", (Env,), {"name": "tools/configdesk"}))


def test_the_guide_is_the_description_or_else_the_docstring() -> None:
    assert describe(Dial) == "Turn a dial."
    assert describe(type("Told", (Dial,), {"description": "Turn it."})) == "Turn it."


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution with an entry point; the module's text is the test's to write."""
    (tmp_path / "stranger-1.dist-info").mkdir()
    (tmp_path / "stranger-1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: stranger\nVersion: 1\n"
    )
    (tmp_path / "stranger-1.dist-info/entry_points.txt").write_text(
        "[turnwise.plugins]\nstranger = stranger_envs\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stranger_envs", raising=False)
    load_plugins.cache_clear()
    yield tmp_path / "stranger_envs.py"
    load_plugins.cache_clear()


def test_a_plugins_environment_is_found_by_name(plugin: Path) -> None:
    plugin.write_text(
        "from turnwise.envs.env import Env\n"
        "from turnwise.envs.registry import register\n"
        "@register\n"
        "class Stranger(Env):\n"
        "    name = 'stranger/game'\n"
        "    tasks = reset = grade = lambda self, *args: None\n"
    )
    assert env_class("stranger/game").__module__ == "stranger_envs"
    assert "stranger/game" in names()


@pytest.mark.parametrize(
    "fault", ["raise RuntimeError('no\\nlicence')", "import sys; sys.exit('no licence')"]
)
def test_a_broken_plugin_is_named_with_what_to_do(plugin: Path, fault: str) -> None:
    plugin.write_text(f"{fault}\n")
    with pytest.raises(UsageError) as told:
        names()
    said = r"plugin stranger \(stranger_envs\) failed to load: \w+: no licence"
    assert re.fullmatch(f"{said}; mend it, or pip uninstall stranger", str(told.value))
