"""The choice of a backend by name or for this machine."""

from __future__ import annotations

import logging

import pytest

from turnwise.envs.errors import UsageError
from turnwise.envs.local import LocalEnvs
from turnwise.sandbox import BackendUnavailable, Probe, backend, probes
from turnwise.sandbox.backends import BACKENDS, load
from turnwise.sandbox.docker import DockerBackend
from turnwise.sandbox.process import ProcessBackend


def test_each_name_loads_the_backend_of_that_name() -> None:
    assert [load(name).name for name in BACKENDS] == list(BACKENDS)
    assert isinstance(backend("process"), ProcessBackend)


@pytest.mark.parametrize(
    ("name", "nearest"), [("proces", "process"), ("Namespace", "namespaces"), ("PROCESS", "process")]
)
def test_a_misspelt_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name!r} is none of namespaces, docker, process.*mean '{nearest}'"
    ):
        backend(name)


def test_a_name_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(ValueError, match=r"'qqq' is none of namespaces, docker, process[^;]*$"):
        backend("qqq")


def test_a_runtime_of_the_engines_is_a_backend_by_its_name() -> None:
    chosen = load("docker:runsc")
    assert issubclass(chosen, DockerBackend)
    assert (chosen.name, chosen.runtime) == ("docker:runsc", "runsc")
    assert (DockerBackend.name, DockerBackend.runtime) == ("docker", None)
    assert isinstance(backend("docker:runsc"), chosen)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("process:fast", "'process:fast': 'process' has no variants"),
        ("docker:", "'docker:' is none of namespaces, docker, process"),
        ("dokcer:runsc", "mean 'docker'"),
    ],
)
def test_a_variant_that_is_none_is_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        load(name)
    with pytest.raises(UsageError, match=said):
        LocalEnvs(backend=name)


def test_every_backend_is_probed_the_best_first() -> None:
    kinds = [probe.backend.partition(":")[0] for probe in probes()]
    assert list(dict.fromkeys(kinds)) == list(BACKENDS)
    assert all(probe.available or probe.remedy for probe in probes())


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, answer: Probe) -> None:
    monkeypatch.setattr(load(name), "probe", classmethod(lambda cls: answer))


def test_the_best_that_runs_here_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "namespaces", Probe("namespaces", True, "works"))
    assert backend().name == "namespaces"


def test_a_weaker_choice_is_told_loudly(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, "namespaces", Probe("namespaces", False, "no user namespaces", "sysctl this=1"))
    pretend(monkeypatch, "docker", Probe("docker", False, "no Engine", "start one"))
    assert backend().name == "process"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for part in ("'process'", "network isolation", "namespaces: no user namespaces", "sysctl this=1"):
        assert part in record.getMessage()


def test_when_none_runs_the_error_says_why_and_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BACKENDS:
        pretend(monkeypatch, name, Probe(name, False, f"{name} lacks it", f"get {name}"))
    with pytest.raises(BackendUnavailable, match=r"namespaces lacks it.*get namespaces.*process lacks it"):
        backend()
