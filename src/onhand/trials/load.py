"""Real baskets, or a crowd, against servers that stay up, and what the ledger says of it afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from onhand.domain.errors import LedgerUnavailable
from onhand.feeds.completejourney import read_baskets
from onhand.feeds.weeks import parse_weeks
from onhand.postgres import not_answering
from onhand.settings import Unusable
from onhand.simulate.buyers import run_buyers
from onhand.simulate.plan import Basket, Line
from onhand.simulate.rates import Rates
from onhand.simulate.replay import run_replay

Progress = Callable[[int, int], None]


def replay(
    weeks: str,
    *,
    target: str,
    processes: int,
    seed: int,
    run_id: str | None = None,
    rates: Rates | None = None,
    addresses: Callable[[], tuple[str, str]] | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Plays the weeks' baskets against `target`, and audits; with `addresses` (PostgreSQL's, Redis') by the ledger too.

    They are asked for at the end: servers that were restarted meanwhile may have others.

    Raises FeedError, GaveUp and ProcessFailed. The report's `ok` says whether all was done and everything held.
    """
    chosen = parse_weeks(weeks)
    read = read_baskets(chosen)
    baskets = [
        Basket(
            basket.basket_id,
            basket.location_id,
            basket.customer_id,
            tuple(Line(*line) for line in basket.lines),
        )
        for basket in read.baskets
    ]
    report = run_replay(
        baskets, target=target, processes=processes, seed=seed, run_id=run_id, rates=rates, progress=progress
    )
    report["weeks"] = str(chosen)
    report["read"] = {
        "lines": read.lines_read,
        "baskets": read.baskets_read,
        "lines_left_out": read.lines_left_out,
        "baskets_left_out": read.baskets_left_out,
    }
    if addresses is None:
        why = f"where the ledger and the gate of {target} are is not known here; --postgres and --redis say so"
        report["verify"] = {"left_out": why}
    else:
        _verify(report, *addresses())
    wrong = ("violations", "money_violations", "oversold_units", "unknown")
    report["ok"] = not any(report[name] for name in wrong)
    return report


def simulate(
    *,
    buyers: int,
    stock: int,
    processes: int,
    seed: int,
    target: str | None = None,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Lets a crowd buy from `target`, or from a stack of its own with `processes` servers, which it ends.

    Raises GaveUp, ProcessFailed and StackError. The report's `ok` says whether everything held.
    """
    if target is not None:
        report = run_buyers(
            target=target, buyers=buyers, stock=stock, processes=processes, seed=seed, progress=progress
        )
    else:
        with servers(processes) as (own, addresses):
            report = run_buyers(
                target=own, buyers=buyers, stock=stock, processes=processes, seed=seed, progress=progress
            )
            _verify(report, *addresses)
    report["processes"] = processes
    report["ok"] = not (report["violations"] or report["oversold_units"] or report["unknown"])
    return report


@contextmanager
def servers(processes: int) -> Iterator[tuple[str, tuple[str, str]]]:
    """PostgreSQL, Valkey and server processes in a temporary folder, ended afterwards: (target, (DSN, URL))."""
    from onhand.dev.stack import DevStack
    from onhand.ledger.migrate import migrate
    from onhand.serve import reserve_port, server_processes

    with ExitStack() as ended:
        folder = ended.enter_context(tempfile.TemporaryDirectory(prefix="onhand-simulate-", ignore_cleanup_errors=True))
        stack = ended.enter_context(DevStack(Path(folder), fast=True))
        migrate(stack.postgres_dsn)
        held = ended.enter_context(reserve_port("127.0.0.1", 0))
        addresses = stack.postgres_dsn, stack.redis_url
        port = held.getsockname()[1]
        children = server_processes(
            postgres_dsn=addresses[0], redis_url=addresses[1], host="127.0.0.1", port=port, count=processes
        )
        ended.callback(children.stop)
        yield f"127.0.0.1:{port}", addresses


def _verify(report: dict[str, Any], postgres_dsn: str, redis_url: str) -> None:
    """Adds what the ledger and the gate say of themselves."""
    from onhand.verify import verify

    try:
        ledger = asyncio.run(verify(postgres_dsn, redis_url)).to_json()
    except LedgerUnavailable as error:
        ledger = {"ok": False, "checks": [], "error": not_answering(postgres_dsn, error)}
    except Unusable as error:
        ledger = {"ok": False, "checks": [], "error": str(error)}
    failed = [check for check in ledger["checks"] if not check["ok"]]
    # `onhand verify` shows them all; here it is enough to know how many held, and which did not.
    report["verify"] = {**ledger, "checks": len(ledger["checks"]), "failed": failed}
    report["violations"] += len(failed) + ("error" in ledger)
