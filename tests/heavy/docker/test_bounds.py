"""The bound that ended a container is known, however busy the Engine is; what ends otherwise has met none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from turnwise.sandbox.docker.engine import overstepped
from turnwise.sandbox.docker.runtimes import LINUX

GROW = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"
MORE_NEWS_THAN_AN_ENGINE_KEEPS = 300


@pytest.fixture
def container(engine: Any, shell_only: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """One with little memory, started, that runs the script given."""
    command = ["/bin/sh", "-c", request.param]
    made = engine.containers.create(
        shell_only, command, init=True, mem_limit="16m", memswap_limit="16m", network_mode="none"
    )
    made.start()
    yield made
    made.remove(force=True)


@pytest.mark.parametrize("container", [GROW, f"({GROW}); kill -9 $$"], indirect=True, ids=["all", "a part"])
def test_memory_that_ran_out_is_known_when_the_news_of_it_is_gone(
    engine: Any, container: Any, shell_only: str
) -> None:
    container.wait()
    for _ in range(MORE_NEWS_THAN_AN_ENGINE_KEEPS):
        engine.api.tag(shell_only, "localhost/turnwise-test-news")
    engine.api.remove_image("localhost/turnwise-test-news")
    assert overstepped(engine.api, container.id, LINUX) == "memory"


@pytest.mark.parametrize("container", [f"({GROW}); while :; do :; done"], indirect=True, ids=["grown before"])
def test_who_survived_that_and_is_killed_by_the_engine_has_met_no_bound(engine: Any, container: Any) -> None:
    next(engine.api.events(since=0, filters={"container": [container.id], "event": ["oom"]}))
    container.kill()
    assert overstepped(engine.api, container.id, LINUX) is None


@pytest.mark.parametrize("container", ["kill -9 $$", "exit 1"], indirect=True, ids=["killed", "ended"])
def test_what_ends_otherwise_has_met_no_bound(engine: Any, container: Any) -> None:
    assert overstepped(engine.api, container.id, LINUX) is None
