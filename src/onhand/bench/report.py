"""docs/performance.md, from a report of `onhand bench --json` and from notes.

`python -m onhand.bench.report build/bench.json docs/performance-notes.md` prints it. Everything above the notes comes from the
run; the notes are written by hand, in a file of their own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onhand.bench.baselines import POOLED_CONNECTIONS
from onhand.bench.load import REFUSED_SHARE_MAX

Told = Mapping[str, Any]
"""A figure of the report, or all of it."""

IN_FLIGHT = 64
"""Calls at once of the plots, and of figures that bars are about."""
LONE_MS_MAX = 2.5
"""How much longer than the echo a lone reservation may take."""


@dataclass(frozen=True)
class Bar:
    """What a figure is to reach."""

    what: str
    name: str
    least: float | None = None
    most: float | None = None
    of: Callable[[Told, Mapping[str, Told]], float | None] = lambda figure, _: float(figure["ratio_to_echo"])

    def is_met(self, value: float) -> bool:
        """Whether a value reaches it."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


def _over_baseline(figure: Told, figures: Mapping[str, Told]) -> float | None:
    baseline = figures.get("baseline_conditional_update_hot")
    return figure["calls_per_second"] / baseline["calls_per_second"] if baseline else None


BARS = (
    Bar("reserve, of echo", "reserve", least=0.75),
    Bar("reserve, server time over echo's", "reserve", most=1.35, of=lambda f, _: float(f["server_cpu_ratio_to_echo"])),
    Bar("reserve, p99 over echo's", "reserve", most=1.6, of=lambda f, _: float(f["p99_ratio_to_echo"])),
    Bar("reserve_hot, of echo", "reserve_hot", least=0.85),
    Bar("reserve_hot, over the conditional UPDATE on one row", "reserve_hot", least=3.0, of=_over_baseline),
    Bar("reserve_stream, of the unary echo", "reserve_stream", least=2.0),
    Bar("reserve_batch (reservations), of the unary echo", "reserve_batch", least=4.0),
    Bar("availability_20_skus, of echo", "availability_20_skus", least=0.8),
    Bar("reserve_connect, of the gRPC echo", "reserve_connect", least=1.8),
    Bar("availability_20_skus_connect, of the gRPC echo", "availability_20_skus_connect", least=2.0),
    Bar("place_order, of echo", "place_order", least=0.55),
    Bar("sell, of echo", "sell", least=0.55),
    Bar("place_order_hot, of echo", "place_order_hot", least=0.5),
    Bar("sell_hot, of echo", "sell_hot", least=0.5),
)
"""What is asked of each, at IN_FLIGHT calls at once where a figure has several."""


def page(report: Told, notes: str = "") -> str:
    """The whole page."""
    return "\n\n".join(part.strip() for part in _parts(report, notes) if part.strip()) + "\n"


def _parts(report: Told, notes: str) -> Iterable[str]:
    figures: Sequence[Told] = report["figures"]
    onhand = [figure for figure in figures if not figure["name"].startswith("baseline_")]
    baselines = [figure for figure in figures if figure["name"].startswith("baseline_")]
    yield f"# Performance\n\n{_opening(report)}"
    yield _bars(figures, report.get("sourcing"))
    if onhand:
        yield f"## Beside the ceiling\n\n{OF_ECHO}"
        yield _plot(
            "Part of its echo's calls a second", "of echo", [(f["name"], f["ratio_to_echo"]) for f in _at(onhand)]
        )
        yield _table(OF_FIGURES, [_row(figure) for figure in onhand])
    if baselines:
        yield f"## Instead of onhand\n\n{OF_BASELINES}"
        compared = [f for f in _at(onhand) if f["name"] in ("reserve", "reserve_hot")] + list(baselines)
        yield _plot("Baskets taken a second", "a second", [(f["name"], f["calls_per_second"]) for f in compared])
        yield _table(OF_FIGURES, [_row(figure) for figure in baselines])
    reserve = next((figure for figure in _at(onhand) if figure["name"] == "reserve"), None)
    if reserve is not None:
        yield _where(reserve)
    if "sourcing" in report:
        yield _sourcing(report["sourcing"])
    if "growth" in report:
        yield from _growth(report["growth"])
    yield "## Memory\n\nMegabytes after the run, of all processes of a kind together, without what they share."
    yield _table(("what", "MB"), [(name, f"{mb:,.0f}") for name, mb in report["memory_mb"].items()])
    yield notes


OF_ECHO = """\
Each figure beside the echo of its own messages, in the same server process and the same alternation. `of echo` is the median of
those alternations' ratios, with the least and the most; `server us` is processor time of the server a call, `x echo` the same as
a multiple of the echo's, and `p99 x echo` that of latencies. reserve_batch and reserve_stream count reservations; the latencies
of reserve_batch are those of a call of 100. Figures `_connect` are Connect over HTTP/2 without TLS, beside the gRPC echo."""
OF_BASELINES = f"""\
What one would otherwise write: each takes the same baskets as reserve (or, as `_hot`, the one unit of the one sku), by loops in
one process on the server's processor, and pays for no RPC, no idempotency, no journal of who holds what, no expiry.
conditional_update: asyncpg, one guarded UPDATE a line in a transaction, with a connection for each call in flight, as many
processes with pools of their own have together; _pooled: all calls wait for the same {POOLED_CONNECTIONS} connections.
select_for_update: SQLAlchemy's ORM on asyncpg. redis_script: a Lua script by redis-py; what it took is written nowhere."""
OF_FIGURES = (
    "figure",
    "in flight",
    "a second",
    "of echo",
    "p50 ms",
    "p99 ms",
    "p99 x echo",
    "server us",
    "x echo",
    "PostgreSQL us",
    "Valkey us",
)


def _opening(report: Told) -> str:
    machine, echo = report["machine"], report["echo"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    verified = "is clean" if report["verify"]["ok"] else "FAILED"
    processes = machine["server_processes"]
    cpu, share = echo["cpu_ms_per_call"], echo["cpu_share"]
    layout = machine["layout"][0].upper() + machine["layout"][1:]
    return f"""\
From `make bench`: {report["alternations"]} alternations of {report["seconds"]:g} s, medians. `onhand verify` on what it left
{verified}.

- {machine["processors"]} processors ({machine["processor"]}), Linux {machine["kernel"]}; Python {machine["python"]}, {versions}.
- {layout}. {processes} server {"process" if processes == 1 else "processes"}. PostgreSQL runs with
  fsync {"on" if machine["fsync"] else "off"}.
- The echo ({echo["kind"]}, {echo["in_flight"]} in flight): {echo["calls_per_second"]:,.0f} calls a second,
  p50 {echo["p50_ms"]:.1f} ms, p99 {echo["p99_ms"]:.1f} ms; {1000 * cpu["server"]:.0f} us of server time a call and
  {1000 * cpu["client"]:.0f} us of the clients'. Meanwhile the server had {share["server"]:.0%} of a processor and the
  clients {share["client"]:.0%}: {_saturated(share)}"""


def _saturated(share: Mapping[str, float]) -> str:
    if share["server"] >= 0.9:
        return "the server is what saturates."
    if share["client"] >= 0.9:
        return "the clients saturate, and the echo is worth more than is told."
    return "neither saturates; something else ran on the machine."


def _bars(figures: Sequence[Told], sourcing: Told | None) -> str:
    chosen = {figure["name"]: figure for figure in _at(figures)}
    rows = []
    for bar in BARS:
        figure = chosen.get(bar.name)
        value = bar.of(figure, chosen) if figure is not None else None
        if value is not None:
            wanted = f">= {bar.least:g}" if bar.least is not None else f"<= {bar.most:g}"
            rows.append((bar.what, wanted, f"{value:.2f}", "yes" if bar.is_met(value) else "no"))
    lone = next((f for f in figures if (f["name"], f["in_flight"]) == ("reserve", 1)), None)
    if lone is not None:
        more = lone["p50_ms"] - lone["echo"]["p50_ms"]
        met = "yes" if more <= LONE_MS_MAX else "no"
        rows.append(("a lone reserve, ms over the echo's p50", f"<= {LONE_MS_MAX:g}", f"{more:.2f}", met))
    if sourcing is not None:
        most, took = sourcing["median_ms_max"], sourcing["median_ms"]
        rows.append(("a sourcing plan, ms", f"<= {most:g}", f"{took:.2f}", "yes" if took <= most else "no"))
    if not rows:
        return ""
    return f"## The bars\n\nAt {IN_FLIGHT} calls in flight.\n\n" + _table(("what", "bar", "measured", "met"), rows)


def _at(figures: Sequence[Told]) -> list[Told]:
    """Each figure once: at IN_FLIGHT, or at as many as it has."""
    chosen: dict[str, Told] = {}
    for figure in figures:
        if figure["name"] not in chosen or figure["in_flight"] == IN_FLIGHT:
            chosen[figure["name"]] = figure
    return list(chosen.values())


def _row(figure: Told) -> tuple[str, ...]:
    cpu = figure["cpu_ms_per_call"]
    least, most = figure["ratio_to_echo_min"], figure["ratio_to_echo_max"]
    refused = figure["refused_share"]
    return (
        figure["name"] + (f" ({refused:.1%} refused)" if refused > REFUSED_SHARE_MAX else ""),
        str(figure["in_flight"]),
        f"{figure['calls_per_second']:,.0f}",
        f"{figure['ratio_to_echo']:.2f} ({least:.2f} to {most:.2f})",
        f"{figure['p50_ms']:.1f}",
        f"{figure['p99_ms']:.1f}",
        f"{figure['p99_ratio_to_echo']:.2f}",
        f"{1000 * cpu['server']:.0f}",
        f"{figure['server_cpu_ratio_to_echo']:.2f}",
        f"{1000 * cpu['postgres']:.0f}",
        f"{1000 * cpu['valkey']:.0f}",
    )


def _where(reserve: Told) -> str:
    cpu, echo = reserve["cpu_ms_per_call"], reserve["echo"]["cpu_ms_per_call"]
    parts = [
        ("server, as for the echo", 1000 * min(echo["server"], cpu["server"])),
        ("server, beyond the echo", 1000 * max(0.0, cpu["server"] - echo["server"])),
        ("PostgreSQL", 1000 * cpu["postgres"]),
        ("Valkey", 1000 * cpu["valkey"]),
    ]
    rows = [(name, f"{us:.0f}") for name, us in (*parts, ("all of it", sum(us for _, us in parts)))]
    return f"""\
## Where the time of one reserve goes

Processor time a call, {reserve["in_flight"]} in flight, in microseconds. A reservation shares its round to the gate and its
transaction with others that came at the same time.

{_plot("One reserve", "us", parts)}

{_table(("where", "us"), rows)}"""


def _sourcing(sourcing: Told) -> str:
    names = ("median_ms", "p99_ms", "share_proven_optimal", "gap_max")
    told = [*sourcing["policies"], {"policy": "all of them", **{name: sourcing[name] for name in names}}]
    rows = [
        (
            each["policy"],
            f"{each['median_ms']:.1f}",
            f"{each['p99_ms']:.1f}",
            f"{each['share_proven_optimal']:.0%}",
            f"{each['gap_max']:.1%}",
        )
        for each in told
    ]
    return f"""\
## Sourcing

A plan with its reasons for {sourcing["lines"]} lines and {sourcing["locations"]} locations, in one process,
without what it takes to read them: {sourcing["plans"]} plans.
`gap`: the largest share by which an objective may be too high where it is not proven;
[decision 16](decisions/0016-sourcing.md) says how.

{_table(("policy", "median ms", "p99 ms", "proven optimal", "gap at most"), rows)}"""


def _growth(growth: Told) -> Iterable[str]:
    sizes: Sequence[Told] = growth["sizes"]
    yield """\
## Growth

The same calls on stores of several sizes, each on a stack of its own. A ratio to the first size is that of the two ratios to
their own echoes, since the sizes were measured one after another."""
    headings: tuple[str, ...] = (
        "store",
        "positions",
        "locations",
        "active reservations",
        "movements",
        "sales",
        "orders",
    )
    rows: list[tuple[str, ...]] = []
    for store in sizes:
        size = store["size"]
        counts = (size[name] for name in ("positions", "locations", "reservations", "movements", "sales", "orders"))
        rows.append((size["name"], *(f"{count:,}" for count in counts)))
    yield _table(headings, rows)
    compared: Sequence[Told] = growth["beside_the_first"]
    names = list(dict.fromkeys(each["name"] for each in compared))
    for name in names:
        curve = [each for each in compared if each["name"] == name]
        yield _plot(
            f"{name}: ratio to the first size",
            "of the first",
            [(each["size"], each["ratio_of_first"]) for each in curve],
            is_line=True,
        )
    headings = (
        "figure",
        "store",
        "a second",
        "of echo",
        "of the first",
        "server us",
        "PostgreSQL us",
        "Valkey us",
        "p50 ms",
        "p99 ms",
    )
    of_first = {(each["size"], each["name"], each["in_flight"]): each["ratio_of_first"] for each in compared}
    rows = []
    for name in names:
        for store in sizes:
            for figure in store["figures"]:
                if figure["name"] == name:
                    cpu = figure["cpu_ms_per_call"]
                    ratio = of_first[store["size"]["name"], name, figure["in_flight"]]
                    rows.append(
                        (
                            name,
                            store["size"]["name"],
                            f"{figure['calls_per_second']:,.0f}",
                            f"{figure['ratio_to_echo']:.2f}",
                            f"{ratio:.2f}",
                            *(f"{1000 * cpu[of]:.0f}" for of in ("server", "postgres", "valkey")),
                            f"{figure['p50_ms']:.1f}",
                            f"{figure['p99_ms']:.1f}",
                        )
                    )
    yield _table(headings, rows)
    rows = [
        (store["size"]["name"], name, f"{held['total']:,.0f}", f"{held['shared']:,.0f}", str(held["processes"]))
        for store in sizes
        for name, held in store["memory_mb"].items()
    ]
    yield "Memory at each size, in megabytes, pages that several processes share counted once:"
    yield _table(("store", "what", "in all", "of it shared", "processes"), rows)


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headings)} |", f"|{' --- |' * len(headings)}"]
    return "\n".join((*lines, *(f"| {' | '.join(row)} |" for row in rows)))


def _plot(title: str, unit: str, values: Sequence[tuple[str, float]], *, is_line: bool = False) -> str:
    """A Mermaid chart."""
    names = ", ".join(json.dumps(name) for name, _ in values)
    numbers = ", ".join(f"{value:.4g}" for _, value in values)
    # Upright labels of many bars would stand on each other.
    kind = "xychart-beta" if is_line or len(values) < 4 else "xychart-beta horizontal"
    return f"""```mermaid
{kind}
    title {json.dumps(title)}
    x-axis [{names}]
    y-axis {json.dumps(unit)} 0 --> {1.1 * max((value for _, value in values), default=1.0):.4g}
    {"line" if is_line else "bar"} [{numbers}]
```"""


def main() -> None:
    """Prints the page."""
    report, *notes = map(Path, sys.argv[1:])
    text = notes[0].read_text() if notes and notes[0].exists() else ""
    sys.stdout.write(page(json.loads(report.read_text()), text))


if __name__ == "__main__":
    main()
