"""The alternations: each figure beside its echo, again and again, and what came of it as one report."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from onhand.bench.baselines import baseline_worker
from onhand.bench.figures import BY_NAME, FIGURES, Figure
from onhand.bench.load import REFUSED_SHARE_MAX, BenchError, Edge, Load, Tally, Workers, clients, printable
from onhand.bench.sourcing import measure as measure_sourcing
from onhand.bench.stage import HOST, Stage, stage, used
from onhand.progress import Show
from onhand.verify import verify

log = logging.getLogger(__name__)

WARM_SECONDS = 1.0
"""How long each figure is called before the first alternation, at most."""
WARM_FROM_SECONDS = 0.5
"""Shorter measurements only show that all works, and nothing is warmed up for them."""
ATTEMPTS_MAX = 3
"""How often a measurement is begun anew that failed, as where a crowded machine made the server refuse calls."""
ATTEMPT_PAUSE_SECONDS = 2.0
"""How long the server is left alone before."""
ECHO_SHARE = 0.6
"""How long the echo is measured, of a figure's time: it is calls of one kind that cost nothing else, and vary less."""
ECHO_IN_FLIGHT_MIN = 64
"""Where a figure has fewer calls in flight, and each does the work of many, its echo is called so often at once."""
SOURCING_PLANS = 50
"""Plans that are timed of each sourcing policy; fewer in a run that only shows that all works."""
ORDERS_SPARE = 1.2
"""Reservations that are made for orders, as a multiple of what the echo could have placed."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to be measured, and how long."""

    seconds: float
    alternations: int
    names: tuple[str, ...] = tuple(BY_NAME)
    in_flight: tuple[int, ...] = ()
    """Instead of each figure's own."""
    processes: int = 1
    is_pinned: bool = True
    has_fsync: bool = True

    def measurements(self) -> list[tuple[Figure, int]]:
        """Figures and calls in flight, in the order of the report."""
        return [
            (figure, in_flight)
            for figure in FIGURES
            if figure.name in self.names
            for in_flight in self.in_flight or figure.in_flight
        ]


@dataclass
class Sample:
    """One measurement."""

    calls_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_call: dict[str, float]
    cpu_share: dict[str, float]
    """Of one processor, while it was measured."""
    refused_share: float
    """Of all calls: those that the server refused, as by its limits on calls under way."""


@dataclass
class Series:
    """A figure and its echo, alternation by alternation."""

    figure: Figure
    in_flight: int
    of_figure: list[Sample] = field(default_factory=list)
    of_echo: list[Sample] = field(default_factory=list)


class Bench:
    """Measures on a stage."""

    def __init__(self, on: Stage, load: Workers, baselines: Workers | None) -> None:
        self._stage = on
        self._clients = load
        self._baselines = baselines
        self._seed = 0
        self._rates: dict[str, float] = {}

    def sample(self, figure: Figure, in_flight: int, seconds: float) -> Sample:
        """One measurement of a figure. Raises BenchError."""
        if figure.is_baseline:
            return self._of_baseline(figure, in_flight, seconds)
        orders = int(ORDERS_SPARE * self._rates[figure.echo_kind] * seconds) if figure.is_order else 0
        return self._measure(
            figure.name, figure.kind, figure.path, figure.edge, in_flight, seconds, figure.items_per_call, orders=orders
        )

    def echo(self, figure: Figure, in_flight: int, seconds: float) -> Sample:
        """One measurement of its echo. Raises BenchError."""
        if figure.items_per_call > 1:
            in_flight = max(in_flight, ECHO_IN_FLIGHT_MIN)
        name = f"the echo of {figure.name}"
        sample = self._measure(name, figure.echo_kind, figure.echo_path, Edge.GRPC, in_flight, seconds, is_echo=True)
        self._rates[figure.echo_kind] = max(sample.calls_per_second, self._rates.get(figure.echo_kind, 0.0))
        return sample

    def _measure(
        self,
        name: str,
        kind: str,
        path: str,
        edge: Edge,
        in_flight: int,
        seconds: float,
        items_per_call: int = 1,
        *,
        is_echo: bool = False,
        orders: int = 0,
    ) -> Sample:
        count = min(len(self._clients.pids), in_flight)
        port = self._stage.connect_port if edge is Edge.CONNECT else self._stage.port
        loads = []
        for n in range(count):
            self._seed += 1
            loads.append(
                Load(
                    kind=kind,
                    path=path,
                    edge=edge,
                    host=HOST,
                    port=port,
                    in_flight=in_flight // count + (n < in_flight % count),
                    shop=self._stage.shop,
                    seed=self._seed,
                    is_echo=is_echo,
                    server_processes=self._stage.processes,
                    orders=-(-orders // count),
                )
            )
        self._clients.all_do("prepare", loads)
        before, began = self._clocks(self._clients), time.perf_counter()
        tallies = self._clients.all_do("run", [seconds] * count)
        took = time.perf_counter() - began
        return self._sampled(name, tallies, used(before, self._clocks(self._clients)), took, items_per_call)

    def _of_baseline(self, figure: Figure, in_flight: int, seconds: float) -> Sample:
        assert self._baselines is not None
        self._baselines.all_do("prepare", [(figure.kind, in_flight)])
        before, began = self._clocks(self._baselines, "server"), time.perf_counter()
        tallies = self._baselines.all_do("run", [seconds])
        took = time.perf_counter() - began
        return self._sampled(figure.name, tallies, used(before, self._clocks(self._baselines, "server")), took, 1)

    def _clocks(self, workers: Workers, name: str = "client") -> dict[str, dict[int, float]]:
        return self._stage.clocks() | {name: self._stage.clocks_of(workers.pids)}

    def _sampled(
        self, name: str, tallies: Sequence[Tally], cpu: Mapping[str, float], took: float, items_per_call: int
    ) -> Sample:
        tally = Tally()
        for each in tallies:
            tally.add(each)
        if not tally.answered:
            raise BenchError(f"{name}: none of {tally.refused} calls was answered: {printable(tally.refusal)}")
        # Where nothing is answered within the window, all that was begun is told over the time that it took.
        rate = tally.in_window / tally.window_seconds if tally.in_window else tally.answered / took
        ordered = sorted(tally.latencies)
        items = tally.answered * items_per_call
        return Sample(
            calls_per_second=rate * items_per_call,
            p50_ms=1000 * percentile(ordered, 0.5),
            p99_ms=1000 * percentile(ordered, 0.99),
            cpu_ms_per_call={of: 1000 * seconds / items for of, seconds in cpu.items()},
            cpu_share={of: seconds / took for of, seconds in cpu.items()},
            refused_share=tally.refused / (tally.answered + tally.refused),
        )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Of ordered values."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# --------------------------------------------------------------------------------------------------------- the report
def run(wanted: Wanted, show: Show) -> dict[str, Any]:
    """All of it on a stack of its own, audited at the end. Raises BenchError and StackError.

    The report's `verify.ok` says whether every invariant held.
    """
    began = time.monotonic()
    with ExitStack() as ended:
        show("stack", 0, 1)
        on = ended.enter_context(
            stage(processes=wanted.processes, is_pinned=wanted.is_pinned, has_fsync=wanted.has_fsync)
        )
        show("stack", 1, 1)
        load = ended.enter_context(clients(set(on.layout.rest)))
        measurements = wanted.measurements()
        baselines = None
        if any(figure.is_baseline for figure, _ in measurements):
            baselines = ended.enter_context(baseline_worker(on))
        series = alternate(Bench(on, load, baselines), measurements, wanted.seconds, wanted.alternations, show)
        if baselines is not None:
            baselines.all_do("clear", [None])
        show("verify", 0, 1)
        audit = asyncio.run(verify(on.postgres_dsn, on.redis_url)).to_json()
        show("verify", 1, 1)
        machine = on.machine()
        memory = on.memory_mb()
    return {
        "machine": machine,
        "seconds": wanted.seconds,
        "alternations": wanted.alternations,
        "took_seconds": round(time.monotonic() - began, 1),
        "echo": told_echo(series),
        "figures": [told(each, wanted.processes) for each in series],
        "memory_mb": memory,
        "sourcing": measure_sourcing(show, plans=max(2, min(SOURCING_PLANS, round(SOURCING_PLANS * wanted.seconds)))),
        "verify": audit,
    }


def alternate(
    bench: Bench, measurements: Sequence[tuple[Figure, int]], seconds: float, alternations: int, show: Show
) -> list[Series]:
    """Each figure beside its echo, in turn; every second time the other way round, so that neither always comes first."""
    series = [Series(figure, in_flight) for figure, in_flight in measurements]
    figures = {each.figure.name: each for each in series}  # each at its last number of calls in flight
    warmed = list(figures.values()) if seconds >= WARM_FROM_SECONDS else []
    for n, each in enumerate(warmed):
        show("warm up", n, len(warmed))
        warm = min(WARM_SECONDS, seconds)
        patiently(partial(bench.echo, each.figure, each.in_flight, ECHO_SHARE * warm))
        patiently(partial(bench.sample, each.figure, each.in_flight, warm))
    show("warm up", len(warmed), len(warmed))
    total, done = alternations * len(series), 0
    for alternation in range(alternations):
        for each in series:
            show("measure", done, total)
            for is_echo in (True, False) if alternation % 2 == 0 else (False, True):
                if is_echo:
                    measure = partial(bench.echo, each.figure, each.in_flight, ECHO_SHARE * seconds)
                    each.of_echo.append(patiently(measure))
                else:
                    each.of_figure.append(patiently(partial(bench.sample, each.figure, each.in_flight, seconds)))
            done += 1
    show("measure", total, total)
    return series


def patiently(measure: Callable[[], Sample]) -> Sample:
    """One measurement, ATTEMPTS_MAX times at most; the last one counts, however many calls were refused: the report tells.

    Raises the last BenchError.
    """
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            sample = measure()
        except BenchError as error:
            if attempt == ATTEMPTS_MAX:
                raise
            log.warning("measured anew: %s", error)
        else:
            if sample.refused_share <= REFUSED_SHARE_MAX or attempt == ATTEMPTS_MAX:
                return sample
            log.warning("measured anew: %.0f%% of the calls were refused", 100 * sample.refused_share)
        time.sleep(ATTEMPT_PAUSE_SECONDS)
    raise AssertionError("not reached")


def summed_up(samples: Sequence[Sample]) -> dict[str, Any]:
    """Medians, and the least and the most of what is told per second."""
    rates = [sample.calls_per_second for sample in samples]
    return {
        "calls_per_second": round(statistics.median(rates), 1),
        "calls_per_second_min": round(min(rates), 1),
        "calls_per_second_max": round(max(rates), 1),
        "p50_ms": round(statistics.median(sample.p50_ms for sample in samples), 3),
        "p99_ms": round(statistics.median(sample.p99_ms for sample in samples), 3),
        "cpu_ms_per_call": _medians([sample.cpu_ms_per_call for sample in samples], 4),
        "cpu_share": _medians([sample.cpu_share for sample in samples], 2),
        "refused_share": round(statistics.mean(sample.refused_share for sample in samples), 4),
    }


def _medians(readings: Sequence[Mapping[str, float]], digits: int) -> dict[str, float]:
    return {name: round(statistics.median(reading[name] for reading in readings), digits) for name in readings[0]}


def _ratios(each: Series, of: str) -> list[float]:
    return [getattr(a, of) / getattr(b, of) for a, b in zip(each.of_figure, each.of_echo, strict=True)]


def told(each: Series, processes: int) -> dict[str, Any]:
    """A figure of the report. Ratios are medians of those of each alternation."""
    ratios = _ratios(each, "calls_per_second")
    cpu = [
        a.cpu_ms_per_call["server"] / b.cpu_ms_per_call["server"]
        for a, b in zip(each.of_figure, each.of_echo, strict=True)
    ]
    return {
        "name": each.figure.name,
        "in_flight": each.in_flight,
        "processes": processes,
        "items_per_call": each.figure.items_per_call,
        **summed_up(each.of_figure),
        "ratio_to_echo": round(statistics.median(ratios), 3),
        "ratio_to_echo_min": round(min(ratios), 3),
        "ratio_to_echo_max": round(max(ratios), 3),
        "server_cpu_ratio_to_echo": round(statistics.median(cpu), 3),
        "p99_ratio_to_echo": round(statistics.median(_ratios(each, "p99_ms")), 3),
        "echo": summed_up(each.of_echo),
    }


def told_echo(series: Sequence[Series]) -> dict[str, Any]:
    """The echo of a reservation of two lines, or else of the first figure, at the fewest calls in flight that fill the server."""
    chosen = [each for each in series if each.in_flight >= ECHO_IN_FLIGHT_MIN] or list(series)
    best = min(chosen, key=lambda each: (each.figure.echo_kind != "reserve", each.in_flight))
    samples = [
        sample
        for each in series
        if (each.figure.echo_kind, each.in_flight) == (best.figure.echo_kind, best.in_flight)
        for sample in each.of_echo
    ]
    return {"name": "echo", "kind": best.figure.echo_kind, "in_flight": best.in_flight, **summed_up(samples)}
