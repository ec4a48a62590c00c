"""A server's counts in the text format of Prometheus, each labelled with its worker.

Made of the workers' reports whenever somebody scrapes; needs the extra ``server``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from turnwise.envs.serving.status import BOUNDS, Report

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PAST = {"created": "were created", "recycled": "were made new again", "died": "died"}
EDGES = (*map(str, BOUNDS), "+Inf")

Labels = Sequence[str]
Sample = tuple[Labels, float]


def exposition(reports: Sequence[Report], down: Sequence[int]) -> bytes:
    """What a scraper reads: the metrics of the workers that reported, and which are ``down``."""
    return generate_latest(_Reports(reports, down))


class _Reports(Collector):
    def __init__(self, reports: Sequence[Report], down: Sequence[int]) -> None:
        self._reports, self._down = reports, down

    def collect(self) -> Iterable[Metric]:
        yield _gauge("build_info", "The version that runs.", ["version"], [([version("turnwise")], 1)])
        up = [([str(report.worker)], 1.0) for report in self._reports]
        down = [([str(worker)], 0.0) for worker in self._down]
        yield _gauge("worker_up", "Whether a worker answers.", ["worker"], up + down)
        yield from self._of_workers()
        yield from self._of_envs()
        yield from self._of_sandboxes()

    def _of_workers(self) -> Iterator[Metric]:
        def each(name: str, documentation: str, value: str) -> Metric:
            samples = [([str(report.worker)], float(getattr(report, value))) for report in self._reports]
            return _gauge(name, documentation, ["worker"], samples)

        yield each("uptime_seconds", "Since the worker started.", "uptime")
        yield each("draining", "Whether no session is opened any more.", "draining")
        yield each("places", "Sessions that may be open at once.", "places")
        yield each("waiting", "Callers that wait for a place.", "waiting")
        yield each("connections", "Open WebSockets.", "connections")
        lost = [([str(report.worker)], float(report.lost)) for report in self._reports]
        yield _counter("sessions_lost", "Sessions that died with a worker.", ["worker"], lost)
        yield _counter(
            "requests",
            "Requests answered, by type and by the code of the fault they met or ok.",
            ["worker", "type", "code"],
            [
                ([str(report.worker), kind, code], count)
                for report in self._reports
                for kind, code, count in report.requests
            ],
        )
        written = [
            ([str(report.worker)], report.journal_bytes)
            for report in self._reports
            if report.journal_bytes is not None
        ]
        if written:
            yield _counter("journal_bytes", "Written to journals.", ["worker"], written)

    def _of_envs(self) -> Iterator[Metric]:
        both = ["worker", "env"]
        every = [
            ([str(report.worker), counts.env], counts) for report in self._reports for counts in report.envs
        ]

        def each(name: str, documentation: str, value: str) -> Metric:
            return _counter(name, documentation, both, [(who, getattr(c, value)) for who, c in every])

        open_now = [(who, counts.opened - sum(counts.closed.values())) for who, counts in every]
        yield _gauge("sessions_open", "Sessions that are open.", both, open_now)
        yield each("sessions_opened", "Sessions that were opened, forks included.", "opened")
        yield _counter(
            "sessions_closed",
            "Sessions that were closed, by how the episode ended; none where it had not.",
            [*both, "end"],
            [([*who, end], count) for who, counts in every for end, count in counts.closed.items()],
        )
        yield each("steps", "Turns carried out.", "steps")
        yield each("infra_failures", "Failures of the machine, which are never scored.", "infra_failures")
        seconds = HistogramMetricFamily("turnwise_step_seconds", "How long turns took.", labels=both)
        for who, counts in every:
            buckets = list(zip(EDGES, accumulate(map(float, counts.step_seconds.buckets)), strict=True))
            seconds.add_metric(who, buckets, counts.step_seconds.sum)
        yield seconds

    def _of_sandboxes(self) -> Iterator[Metric]:
        pools = [(str(r.worker), r.sandboxes) for r in self._reports if r.sandboxes is not None]
        if not pools:
            return
        states = [([worker, "in_use"], pool.in_use) for worker, pool in pools]
        states += [([worker, "idle"], pool.idle) for worker, pool in pools]
        yield _gauge("sandboxes", "Sandboxes of the pools.", ["worker", "state"], states)
        for name in ("created", "recycled", "died"):
            values = [([worker], getattr(pool, name)) for worker, pool in pools]
            yield _counter(f"sandboxes_{name}", f"Sandboxes that {PAST[name]}.", ["worker"], values)


def _gauge(name: str, documentation: str, labels: Labels, samples: Iterable[Sample]) -> Metric:
    return _filled(GaugeMetricFamily(f"turnwise_{name}", documentation, labels=labels), samples)


def _counter(name: str, documentation: str, labels: Labels, samples: Iterable[Sample]) -> Metric:
    return _filled(CounterMetricFamily(f"turnwise_{name}", documentation, labels=labels), samples)


def _filled(
    family: GaugeMetricFamily | CounterMetricFamily, samples: Iterable[Sample]
) -> GaugeMetricFamily | CounterMetricFamily:
    for labels, value in samples:
        family.add_metric(labels, value)
    return family
