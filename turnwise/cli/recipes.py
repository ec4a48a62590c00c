"""``turnwise recipes``: the recipes that ship with the package, and what one of them says."""

from __future__ import annotations

import click

from turnwise.cli.group import Commands


@click.group(cls=Commands, invoke_without_command=True, short_help="List recipes, or show one.")
@click.pass_context
def recipes(context: click.Context) -> None:
    """List recipes; `recipes show NAME` prints one.

    \b
    Examples:
      turnwise recipes
      turnwise recipes show quickstart > mine.yaml
      turnwise recipes show quickstart --schema
    """
    if context.invoked_subcommand is not None:
        return
    from turnwise.trainer.recipe import Recipe, built_in
    from turnwise.viewer.console import grid, make_console
    from turnwise.viewer.words import first_sentence

    table = grid("recipe", "environment", "what it is")
    for name in built_in():
        recipe = Recipe.load(name)
        table.add_row(name, str(recipe.env), first_sentence(recipe.description))
    make_console().print(table)


@recipes.command("show")
@click.argument("name")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of recipes, with every choice, instead.")
def show_recipe(name: str, schema: bool) -> None:
    """Print a recipe with all its defaults, as YAML that `turnwise train` takes.

    NAME is a built-in recipe or a path that ends in .yaml.
    """
    import json

    from turnwise.trainer.recipe import Recipe

    recipe = Recipe.load(name)
    click.echo(json.dumps(Recipe.json_schema(), indent=2) if schema else recipe.to_yaml().rstrip())
