"""Names to environments: what is built in, what plugins bring, and how one is opened by name.

An environment is named with its options as in a URL's query: ``tools/configdesk?level=2``. Built-in
environments are imported when they are asked for, plugins (entry-point group ``turnwise.plugins``)
when any name is looked up.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from urllib.parse import parse_qsl

from pydantic import Field, JsonValue, ValidationError

from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError, folded, invalid, shown, unknown
from turnwise.envs.types import Model

PLUGINS = "turnwise.plugins"
_BUILT_IN = {
    "swe/sample": "turnwise.envs.swe.sample",
    "swe/tasks": "turnwise.envs.swe.tasks",
    "tools/configdesk": "turnwise.envs.tools.configdesk",
}
_REGISTERED: dict[str, type[Env]] = {}
_NEEDED = ("tasks", "reset", "grade")
_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def register(env: type[Env]) -> type[Env]:
    """Make an environment known by its name; usable as a class decorator.

    Raises ``UsageError`` when its name is missing, malformed or another environment's, and when it does not
    define all that an episode needs.
    """
    name = getattr(env, "name", "")
    if not _NAME.fullmatch(name):
        raise UsageError(f"environment {env.__name__}: name {name!r} must look like 'family/name'")
    known = _REGISTERED.get(name)
    if known is not None and _origin(known) != _origin(env):
        raise UsageError(f"environment name {name!r} is taken by {_origin(known)}")
    if not f"{env.__module__}.".startswith(_BUILT_IN.get(name, "")):
        raise UsageError(f"environment name {name!r} is taken by {_BUILT_IN[name]}")
    missing = [f"{method}()" for method in _NEEDED if getattr(env, method) is getattr(Env, method)]
    if missing:
        raise UsageError(f"environment {name}: {env.__name__} must define {' and '.join(missing)}")
    _REGISTERED[name] = env
    return env


def _origin(env: type[Env]) -> str:
    return f"{env.__module__}.{env.__qualname__}"


@cache
def load_plugins() -> None:
    """Import every installed plugin once. A broken one is named, not skipped."""
    for point in entry_points(group=PLUGINS):
        try:
            point.load()
        except (Exception, SystemExit) as error:
            said = f"plugin {point.name} ({point.value}) failed to load: {type(error).__name__}: {error}"
            owner = "the package" if point.dist is None else point.dist.name
            raise UsageError(folded(f"{said}; mend it, or pip uninstall {owner}")) from error


def names() -> list[str]:
    """Every environment's name, sorted."""
    load_plugins()
    return sorted({*_BUILT_IN, *_REGISTERED})


def env_class(name: str) -> type[Env]:
    """The environment class of a name. Raises ``UsageError`` naming the nearest match."""
    load_plugins()
    if name not in _REGISTERED and name in _BUILT_IN:
        import_module(_BUILT_IN[name])
    if name not in _REGISTERED:
        raise unknown("environment", name, names())
    return _REGISTERED[name]


class EnvSpec(Model):
    """An environment's name and options."""

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)

    @classmethod
    def parse(cls, spec: str | EnvSpec) -> EnvSpec:
        """From ``name`` or ``name?option=value&…``. Raises ``UsageError`` for what is neither."""
        if isinstance(spec, EnvSpec):
            return spec
        if not isinstance(spec, str):
            raise UsageError(f"environment {shown(spec)}: must be a name such as 'tools/configdesk'")
        name, _, query = spec.partition("?")
        try:
            pairs = parse_qsl(query, strict_parsing=True, keep_blank_values=True) if query else []
        except ValueError:
            raise UsageError(f"environment {spec!r}: write options as name?key=value&key=value") from None
        options: dict[str, JsonValue] = {}
        for key, value in pairs:
            if key in options:
                raise UsageError(f"environment {spec!r}: gives option {key} twice")
            options[key] = value
        return cls(name=name, options=options)

    def make(self) -> Env:
        """A fresh instance. Raises ``UsageError`` for an unknown name, option or value."""
        cls = env_class(self.name)
        try:
            return cls(cls.Options.model_validate(self.options))
        except ValidationError as error:
            raise invalid(f"options of {self.name}", error, cls.Options) from None

    def __str__(self) -> str:
        query = "&".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}?{query}" if query else self.name
