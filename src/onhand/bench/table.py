"""The report for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADINGS = (
    "figure",
    "in flight",
    "a second",
    "of echo",
    "p50 ms",
    "p99 ms",
    "server us",
    "x echo",
    "postgres us",
    "valkey us",
)


def table(report: Mapping[str, Any]) -> str:
    """A line for each figure. Microseconds are processor time a call."""
    rows = [HEADINGS]
    for figure in report["figures"]:
        cpu = {name: f"{1000 * ms:.0f}" for name, ms in figure["cpu_ms_per_call"].items()}
        rows.append(
            (
                figure["name"] + (f" ({figure['refused_share']:.1%} refused)" if figure["refused_share"] else ""),
                str(figure["in_flight"]),
                f"{figure['calls_per_second']:.0f}",
                f"{figure['ratio_to_echo']:.2f}",
                f"{figure['p50_ms']:.2f}",
                f"{figure['p99_ms']:.2f}",
                cpu["server"],
                f"{figure['server_cpu_ratio_to_echo']:.2f}",
                cpu["postgres"],
                cpu["valkey"],
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    echo, machine = report["echo"], report["machine"]
    lines.append(
        f"\nthe echo ({echo['kind']}, {echo['in_flight']} in flight): {echo['calls_per_second']:.0f} a second, p50 "
        f"{echo['p50_ms']:.2f} ms, p99 {echo['p99_ms']:.2f} ms, {1000 * echo['cpu_ms_per_call']['server']:.0f} us in the server, "
        f"{1000 * echo['cpu_ms_per_call']['client']:.0f} us in the clients; the server had {echo['cpu_share']['server']:.0%} "
        "of a processor"
    )
    lines.append(told_sourcing(report["sourcing"]))
    lines.append(f"{machine['layout']}; fsync {'on' if machine['fsync'] else 'off'}")
    failed = [check["name"] for check in report["verify"]["checks"] if not check["ok"]]
    lines.append("verify: clean" if report["verify"]["ok"] else f"verify: FAILED {', '.join(failed)}")
    return "\n".join(lines)


def told_sourcing(sourcing: Mapping[str, Any]) -> str:
    """A line for people."""
    return (
        f"a sourcing plan with reasons, {sourcing['lines']} lines, {sourcing['locations']} locations: median "
        f"{sourcing['median_ms']:.1f} ms, p99 {sourcing['p99_ms']:.1f} ms; {sourcing['share_proven_optimal']:.0%} proven optimal, "
        f"gap at most {sourcing['gap_max']:.1%}"
    )
