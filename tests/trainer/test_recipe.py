"""Recipes: reading, overriding, writing them back, and one-line answers to what is wrong with one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from turnwise.envs.errors import UsageError
from turnwise.trainer.columns import base_columns
from turnwise.trainer.recipe import (
    FolderModel,
    Recipe,
    RegressionLoss,
    TinyModel,
    WeightedLoss,
    built_in,
    parse_settings,
)
from turnwise.trainer.stage import credit

Lab = SimpleNamespace
COLUMNS = base_columns(("found", "sent"), {"outcome": 0, "validity": 1})


@pytest.fixture
def quickstart() -> Recipe:
    return Recipe.load("quickstart")


@pytest.mark.parametrize("name", sorted(built_in()))
def test_built_in_recipes_work_and_say_what_they_are(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert len(recipe.description) > 40
    env = recipe.env.make()
    pipeline = recipe.pipeline(base_columns(env.milestone_names(), env.channels()))
    assert "advantage" in [c for node in pipeline.stages.values() for c in node.provides]
    (tmp_path / "copy.yaml").write_text(recipe.to_yaml())
    again = Recipe.load(tmp_path / "copy.yaml")
    assert again == recipe
    assert again.to_yaml() == recipe.to_yaml()


def test_what_is_stored_does_not_depend_on_defaults(quickstart: Recipe) -> None:
    stored = yaml.safe_load(quickstart.to_yaml())
    assert stored["credit"][1] == {"kind": "returns", "gamma": 0.95, "of": "step_reward"}
    assert stored["optimizer"]["lr"] == 0.001
    assert list(stored) == list(Recipe.model_fields)


@pytest.mark.usefixtures("fresh_registry")
def test_the_public_example(quickstart: Recipe, lab: Lab) -> None:
    @credit("decay", scope="episode", needs=["reward"], provides=["step_reward"])
    def decay(t: Any, gamma: float = 0.9) -> Any:
        return {"step_reward": t.reward * gamma**t.index}

    recipe = quickstart.override(credit=["decay", "grpo"], env="demo/guess")
    assert (recipe.env.name, recipe.env.options) == ("demo/guess", {})
    table = lab.table(lab.episode("a", "g", 1, 1.0), lab.episode("b", "g", 3, 1.0))
    advantage = recipe.pipeline(table.columns).run(table, {}).advantage
    assert advantage[0] > 0 > advantage[1] == advantage[3]


def test_override_merges_sections_and_replaces_lists(quickstart: Recipe) -> None:
    recipe = quickstart.override(rollout={"group": 4}, credit=["outcome", {"kind": "grpo", "std": False}])
    assert (recipe.rollout.group, recipe.rollout.tasks) == (4, quickstart.rollout.tasks)
    assert [ref.kind for ref in recipe.credit] == ["outcome", "grpo"]
    assert quickstart.rollout.group == 8
    assert quickstart.override() == quickstart
    assert quickstart.override(model=TinyModel(layers=3)).model == TinyModel(layers=3)


def test_settings_of_the_command_line(quickstart: Recipe) -> None:
    words = [
        "rollout.group=4",
        "rollout.tasks=2",
        "credit=[outcome, {kind: grpo, std: false}]",
        "optimizer.lr=3e-4",
        "warm_start=null",
        "env.options.level=2",
        "name=a=b",
    ]
    recipe = quickstart.override(**parse_settings(words))
    assert (recipe.rollout.group, recipe.rollout.tasks) == (4, 2)
    assert recipe.credit[1].params["std"] is False
    assert recipe.optimizer.lr == 3e-4
    assert recipe.warm_start is None
    assert (str(recipe.env), recipe.name) == ("tools/configdesk?level=2", "a=b")


def test_another_kind_does_not_inherit_the_fields_of_the_last(quickstart: Recipe) -> None:
    assert quickstart.override(**{"model.kind": "folder", "model.path": "m"}).model == FolderModel(path="m")
    assert quickstart.override(**{"env.name": "demo/guess"}).env.options == {}
    assert quickstart.override(**{"model.layers": 3}).model == TinyModel(layers=3)
    assert quickstart.override(warm_start=None).override(**{"warm_start.gate": 0.5}).warm_start is not None


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"stepz": 3}, "unknown field 'stepz'; did you mean 'steps'? (allowed: "),
    ({"rollout.gropu": 3}, "unknown field in rollout 'gropu'; did you mean 'group'? (allowed: concurrency"),
    ({"warm_start.gat": 0.1}, "unknown field in warm_start 'gat'; did you mean 'gate'?"),
    ({"model": {"hiden_size": 3}}, "unknown field in model.tiny 'hiden_size'; did you mean 'hidden_size'?"),
    (
        {"model": {"kind": "tinny"}},
        "unknown kind of model 'tinny'; did you mean 'tiny'? (allowed: folder, tiny)",
    ),
    ({"model": {"kind": "folder"}}, "model.folder.path is missing"),
    (
        {"loss.ratio": "tokens"},
        "unknown loss.clip.ratio 'tokens'; did you mean 'token'? (allowed: token, turn)",
    ),
    ({"rollout.group": "many"}, 'rollout.group = "many": Input should be a valid integer'),
    ({"rollout.group": 0}, "rollout.group = 0: Input should be greater than 0"),
    ({"optimizer.lr": float("nan")}, "optimizer.lr = NaN: Input should be a finite number"),
    ({"seed.x": 1}, 'seed = {"x": 1}: Input should be a valid integer'),
    ({"credit": ["grpp"]}, "credit.0: unknown credit stage 'grpp'; did you mean 'grpo'?"),
    ({"credit": ["outcome", {"kind": "grpo", "epss": 1}]}, "credit.1: stage grpo: unknown field 'epss'; did"),
    ({"credit": [{"std": True}]}, "credit.0: {'std': True} is no stage: write its name"),
    ({"credit": "grpo"}, 'credit = "grpo": Input should be a list'),
    ({"env": "demo/guess?level"}, "env: environment 'demo/guess?level': write options as"),
    ({"stepz": 3, "seeed": 1}, "(and 1 more)"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_a_mistake_is_answered_in_one_line(quickstart: Recipe, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        quickstart.override(**changes)
    assert message in str(error.value)
    assert str(error.value).startswith("recipe quickstart: ")
    assert "\n" not in str(error.value)


def test_a_graph_is_refused_in_the_recipes_name(quickstart: Recipe) -> None:
    without = base_columns((), {"outcome": 0})
    with pytest.raises(
        UsageError, match=r"^recipe quickstart: credit: stage 'milestones' needs column 'progress'"
    ):
        quickstart.pipeline(without)
    with pytest.raises(UsageError, match=r"rollout\.group is 1"):
        quickstart.override(**{"rollout.group": 1}).pipeline(COLUMNS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "must be a mapping of sections, not list"),
        ("name: [", "not YAML: while parsing"),
        ("name: x", "(and 1 more)"),
    ],
)
def test_a_file_that_is_no_recipe(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(UsageError) as error:
        Recipe.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown recipe 'quikstart'; did you mean 'quickstart'"):
        Recipe.load("quikstart")
    with pytest.raises(UsageError, match=r"none\.yaml: No such file"):
        Recipe.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("setting", ["rollout.group", "=3", "credit=[a"])
def test_a_setting_that_is_none(setting: str) -> None:
    with pytest.raises(UsageError, match=r"^setting '"):
        parse_settings([setting])


@pytest.mark.usefixtures("fresh_registry")
def test_the_schema_knows_every_stage_and_describes_every_field() -> None:
    @credit("decay", scope="episode", needs=["reward"], provides=["step_reward"])
    def decay(t: Any, gamma: float = 0.9) -> Any:
        """Early rewards count more."""

    schema = Recipe.json_schema()
    forms = schema["$defs"]["StageRef"]["anyOf"]
    assert {"decay", "grpo"} <= set(forms[0]["enum"])
    (mine,) = [form for form in forms if form.get("title") == "decay"]
    assert mine["description"] == "Early rewards count more."
    assert mine["properties"]["kind"] == {"const": "decay"}
    assert mine["properties"]["gamma"]["default"] == 0.9
    rollout = schema["$defs"]["Rollout"]["properties"]
    assert rollout["tasks"]["description"] == "Tasks per step."
    assert all("description" in field for name, field in rollout.items())
    json.dumps(schema)


def test_another_loss_does_not_inherit_the_fields_of_the_last(quickstart: Recipe) -> None:
    clipped = quickstart.override(**{"loss.ratio": "turn", "loss.high": 0.3})
    assert clipped.override(**{"loss.kind": "regression"}).loss == RegressionLoss()
    assert clipped.override(**{"loss.kind": "weighted", "loss.cap": 5}).loss == WeightedLoss(cap=5)
    with pytest.raises(UsageError, match=r"unknown field in loss\.regression 'cap'"):
        clipped.override(**{"loss.kind": "regression", "loss.cap": 5})
    with pytest.raises(UsageError, match=r"kind of loss 'mse' \(allowed: clip, regression, weighted\)"):
        clipped.override(**{"loss.kind": "mse"})


def test_a_column_that_a_scorer_gives_is_answered_with_the_scorer(quickstart: Recipe) -> None:
    recipe = quickstart.override(credit=["outcome", {"kind": "doubly_robust", "of": "step_reward"}, "scale"])
    with pytest.raises(UsageError, match=r"which a scorer gives; add scorers: \[{kind: critics}\]"):
        recipe.pipeline(COLUMNS)
    assert recipe.override(scorers=[{"kind": "critics"}]).pipeline(COLUMNS).stages
