"""The Engine's API from asyncio: each call of the docker package blocks, so each has a thread.

The threads are our own: the event loop's few would all wait for an Engine that is slow. Whatever goes wrong
with the Engine is raised as :class:`SandboxError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

from turnwise.sandbox.contract import BackendUnavailable, Resource, SandboxError
from turnwise.sandbox.docker import lease
from turnwise.sandbox.docker.runtimes import Kernel
from turnwise.sandbox.docker.wire import plain
from turnwise.sandbox.namespaces.jobs import KILLED

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

Client = Any
"""A ``docker.APIClient``; the package has no types."""

UNIX = "unix://"
USUAL = f"{UNIX}/var/run/docker.sock"
THREADS = 16
DEADLINE = 120.0
"""Seconds for one request to the Engine."""
ENDING = 10.0
"""Seconds for a container to end by itself."""
LATE = 10
"""Seconds after a container's end in which the Engine may tell what led to it."""
PATIENCE = 60.0
"""Seconds to wait for a container that the Engine does not remove at once."""
EXTRA = "pip install 'turnwise[docker]'"
REMEDY = "start one, or podman's socket, and let DOCKER_HOST name it"


def connect(deadline: float) -> Client:
    """A client for the Engine that the environment names. Raises :class:`BackendUnavailable`."""
    try:
        docker = importlib.import_module("docker")
    except ImportError as error:
        raise BackendUnavailable(f"the docker package is not installed; {EXTRA}") from error
    where = os.environ.get("DOCKER_HOST") or USUAL
    unavailable = BackendUnavailable(f"no Docker Engine answers at {where}; {REMEDY}")
    try:
        _knock(where, deadline)
    except OSError as error:
        raise unavailable from error
    try:
        asking = docker.from_env(version=docker.constants.MINIMUM_DOCKER_API_VERSION, timeout=deadline).api
        with contextlib.closing(asking):
            spoken = asking.version(api_version=False)["ApiVersion"]
        client = docker.from_env(version=spoken, timeout=deadline).api
        client.headers["Connection"] = "close"  # idle ones would be kept for each thread
        return client
    except failures() as error:
        raise unavailable from error


def _knock(where: str, deadline: float) -> None:
    """See that somebody listens at a Unix socket: the package leaves one open that it could not connect."""
    if where.startswith(UNIX):
        with socket.socket(socket.AF_UNIX) as knocking:
            knocking.settimeout(deadline)
            knocking.connect(where.removeprefix(UNIX))


@functools.cache
def failures() -> tuple[type[Exception], ...]:
    """What the docker package raises when the Engine refuses or does not answer."""
    docker, requests = importlib.import_module("docker"), importlib.import_module("requests")
    urllib3 = importlib.import_module("urllib3")
    package = (docker.errors.DockerException, requests.RequestException, urllib3.exceptions.HTTPError)
    return (*package, ConnectionError, TimeoutError)


def absent() -> type[Exception]:
    """What it raises for a container or image that is not there."""
    found: type[Exception] = importlib.import_module("docker").errors.NotFound
    return found


def told(error: BaseException) -> str:
    """An Engine's refusal in one line."""
    text = str(getattr(error, "explanation", None) or error)
    return " ".join(text.split()) or type(error).__name__


class Engine:
    """A started client, and the threads in which it is used."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.lease = lease.new()
        self.labels = {lease.LABEL: self.lease}
        """What everything that ends with its owner is marked with."""
        self._threads = ThreadPoolExecutor(THREADS, "docker")

    async def call(self, work: Callable[Concatenate[Client, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function of the client in a thread. Once begun it goes on when the caller is cancelled."""
        task = functools.partial(work, self._client, *args, **kwargs)
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, task)
        except failures() as error:
            raise SandboxError(f"the Docker Engine: {told(error)}") from error

    def close(self) -> None:
        """When nothing is under way any more."""
        self._threads.shutdown(wait=False)
        self._client.close()


# -------------------------------------------------------------- work on containers, each for a thread
def start(client: Client, name: str, image: str, options: Mapping[str, Any]) -> socket.socket:
    """Create a container, connect to its streams and start it. When that fails it may still be there."""
    host = client.create_host_config(**options["host_config"])
    client.create_container(image, name=name, **{**options, "host_config": host})
    streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
    connection = plain(client.attach_socket(name, streams))
    try:
        client.start(name)
    except BaseException:
        connection.close()
        raise
    return connection


def remove_once_ended(client: Client, name: str) -> None:
    """Remove a container whose owner's connection is closed. It has some seconds to end by itself: where one
    is killed that just ends, containerd's shim may hear of the end of each process it had a second apart."""
    with contextlib.suppress(*failures()):  # what it is that hinders is told by what follows
        client.wait(name, timeout=ENDING)
    remove(client, name)


def remove(client: Client, name: str) -> None:
    """End and remove a container, with its anonymous volumes. To find none is no error. One that is just
    being removed by somebody else or, for podman, ending by itself is waited for."""
    until = time.monotonic() + PATIENCE
    for pause in itertools.chain((0.1, 0.5), itertools.repeat(1.0)):
        try:
            client.remove_container(name, force=True, v=True)
            return
        except absent():
            return
        except importlib.import_module("docker").errors.APIError:
            if time.monotonic() + pause > until:
                raise
        time.sleep(pause)


def sweep(client: Client, mine: str, owned: Callable[[str], bool]) -> list[str]:
    """Remove what ended owners left, and of the lease ``mine`` what is not ``owned``; names what went.

    What the Engine does not give up is left to the next sweep: one container that hangs stops no owner.
    """
    removed = []
    for found in client.containers(all=True, filters={"label": lease.LABEL}):
        name = (found["Names"] or [found["Id"]])[0].lstrip("/")  # what is just being removed has none
        holder = found["Labels"][lease.LABEL]
        try:
            if not owned(name) if holder == mine else _left(client, found, holder):
                running = found["State"] == "running"
                (remove_once_ended if running else remove)(client, found["Id"])
                removed.append(name)
        except failures() as error:
            logger.warning("Container %s is left to the next sweep: %s", name, told(error))
    return removed


def _left(client: Client, found: Mapping[str, Any], holder: str) -> bool:
    """Whether a container, as the Engine lists it, has an owner that ended. It is looked at closely only
    where that has to be: what describes a container waits for whatever is being done to it."""
    lives = lease.lives(holder)
    if lives is not None or found["State"] == "running":
        return lives is False
    try:
        return lease.ended_long_ago(client.inspect_container(found["Id"]))
    except absent():
        return False


def overstepped(client: Client, name: str, kernel: Kernel) -> Resource | None:
    """The bound that ended a container which just ends, if one did: the agent's doing.

    Memory did where it ran out and processes were killed that nobody had the Engine kill. An Engine that is
    busy tells that late, or has forgotten its news of it: it keeps the last few hundred.
    """
    client.wait(name, timeout=DEADLINE)  # the Engine hears of it after who is attached
    state = client.inspect_container(name)["State"]
    if state["ExitCode"] == kernel.out_of_threads:
        return "processes"
    if state["ExitCode"] != KILLED:
        return None
    ran_out = state["OOMKilled"]
    since, ended = (int(lease.moment(state[at]).timestamp()) for at in ("StartedAt", "FinishedAt"))
    filters = {"container": [name], "event": ["kill"] if ran_out else ["kill", "oom"]}
    news = client.events(since, ended + (1 if ran_out else LATE), filters, decode=True)
    first = next((told["Action"] for told in news), "oom" if ran_out else None)
    return "memory" if first == "oom" else None
