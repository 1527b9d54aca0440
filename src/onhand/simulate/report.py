"""What a replay says of itself at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from onhand.simulate.amounts import CURRENCY
from onhand.simulate.audit import Findings
from onhand.simulate.books import Books
from onhand.simulate.calls import CallRecord, latencies
from onhand.simulate.plan import After, Kind, Play, Twist
from onhand.simulate.rates import Rates
from onhand.simulate.steps import Tally

VARIES = (
    "Which of two baskets that want the last unit at the same moment gets it is a race. It moves baskets between "
    "orders_placed and orders_refused, parcels between stores and warehouses, and with them lines, units, money, and what else "
    "happens to orders that are placed. What was planned for each basket, and how many there are of each kind, follows from the "
    "seed alone."
)
KEYS = ("resourced", "rejected_lines", "no_shows", "substitutions", "exchanges", "blind_returns", "transfers")


@dataclass
class Result:
    """What one client process did and saw."""

    tally: Tally = field(default_factory=Tally)
    findings: Findings = field(default_factory=Findings)
    calls: CallRecord = field(default_factory=CallRecord)
    books: Books = field(default_factory=Books)


@dataclass(frozen=True)
class Run:
    """What was asked for, and what is known of it beforehand."""

    plays: Sequence[Play]
    rates: Rates
    seed: int
    run_id: str
    processes: int
    is_continued: bool
    followed: int = 0


def together(results: Sequence[Result]) -> Result:
    """What all processes did and saw."""
    whole = Result()
    for result in results:
        for name, number in result.tally.counts.items():
            whole.tally.add(name, number)
        whole.findings.merge(result.findings)
        whole.calls.merge(result.calls)
        whole.books.sums.update(result.books.sums)
        whole.books.orders.update(result.books.orders)
    return whole


def check_sums(whole: Result, *, is_all_known: bool) -> None:
    """The money of the whole run: what the answers said is what the payments and gift cards say."""
    sums, check = whole.books.sums, whole.findings.check_money
    if not is_all_known:
        return
    check(
        sums["captured"] == sums["told_captured"],
        f"{sums['captured']} cents were captured in all, the answers say {sums['told_captured']}",
    )
    # Of no-shows, and of a rest that nobody wants, no answer says what is given back.
    untold = any(not seen.is_all_told for seen in whole.books.orders.values())
    is_told = sums["told_refunded"] <= sums["refunded"] if untold else sums["told_refunded"] == sums["refunded"]
    check(is_told, f"{sums['refunded']} cents were refunded in all, the answers say {sums['told_refunded']}")
    issued, spent = sums["gift_cards_issued"], sums["captured gift_card"]
    due = issued - spent + sums["back_on_gift_cards"]
    check(due == sums["gift_cards_balance"], f"{sums['gift_cards_balance']} cents are on gift cards, {due} are due")


def report_of(run: Run, whole: Result, seconds: float) -> dict[str, Any]:
    """The report; `ok` is added by whoever looks at the ledger too."""
    counts, findings, plays = Counter(whole.tally.counts), whole.findings, run.plays
    placed = counts["completed"] + counts["cancelled"]
    unknown = counts["unknown"] + counts["not_played"]
    told = placed + counts["refused"] + counts["abandoned"] + unknown
    findings.check(told == len(plays), f"{len(plays)} baskets were played, of {told} it is known what became of them")
    return {
        "baskets": len(plays),
        "orders_placed": placed,
        "orders_refused": counts["refused"],
        "orders_cancelled": counts["cancelled"],
        "abandoned": counts["abandoned"],
        "unknown": unknown,
        "sales": counts[f"completed {Kind.SALE.value}"],
        "pickups": counts[f"completed {Kind.PICKUP.value}"],
        "shipments": counts[f"completed {Kind.SHIPMENT.value}"],
        "shipped_from_store": counts["shipped_from_store"],
        "shipped_from_warehouse": counts["shipped_from_warehouse"],
        "returns": counts["returns"],
        "lines": counts["lines"],
        "units": counts["units"],
        "fuel_milliliters": counts["fuel_milliliters"],
        "returned_units": counts["returned_units"],
        **{key: counts[key] for key in KEYS},
        "backorders_filled": counts["backorders_filled"],
        "captured": _amount(whole.books.sums["captured"]),
        "refunded": _amount(whole.books.sums["refunded"]),
        "money_violations": findings.money_violations,
        "oversold_units": findings.oversold_units,
        "violations": findings.violations,
        "evidence": findings.evidence,
        "seconds": round(seconds, 3),
        "orders_per_second": round(placed / seconds, 1) if seconds else 0.0,
        "money": _money(whole.books, counts),
        "besides": {
            name: counts[name]
            for name in (
                "backordered", "missing_lines", "changed", "changes_refused", "nothing_to_substitute", "partly_taken",
                "handed_over_by_identity", "held_longer", "counts", "recounts", "counts_outdated", "undelivered",
                "mail_returns", "blind_returns_refused", "transfers_dispatched", "transfers_refused",
            )
        },
        "planned": _planned(plays),
        "rates_of_20": asdict(run.rates),
        "refused_by_reason": {name[7:]: n for name, n in sorted(counts.items()) if name.startswith("reason ")},
        "lines_left_out": {
            "fuel_online": counts["lines_left_out_fuel_online"],
            "unpriced_online": counts["lines_left_out_unpriced"],
            "unsourced": counts["lines_left_out_unsourced"],
        },
        "audit": {
            "answers_checked": findings.checks,
            "repeats_compared": counts["repeats"],
            "expiries_seen": counts["expiries_seen"],
            "positions_followed": run.followed,
            "orders_settled": len(whole.books.orders),
        },
        "calls": latencies(whole.calls),
        "call_refusals": dict(sorted(whole.calls.refusals.items())),
        "call_retries": dict(sorted(whole.calls.retries.items())),
        "seed": run.seed,
        "run_id": run.run_id,
        "processes": run.processes,
        "varies": VARIES,
    }  # fmt: skip


def _planned(plays: Sequence[Play]) -> dict[str, int]:
    planned = {kind.value: sum(play.kind is kind for play in plays) for kind in Kind}
    planned |= {twist.value: sum(play.twist is twist for play in plays) for twist in Twist if twist is not Twist.NONE}
    return planned | {
        "returns": sum(play.after is After.RETURNED for play in plays),
        "exchanges": sum(play.after is After.EXCHANGED for play in plays),
        "gift_cards": sum(play.has_gift_card for play in plays),
        "late_pickups": sum(play.is_late for play in plays),
        "lost_codes": sum(play.has_lost_code for play in plays),
        "counts": sum(play.is_counted for play in plays),
        "refills": sum(play.is_refilled for play in plays),
        "blind_returns": sum(play.has_blind_return for play in plays),
    }


def _money(books: Books, counts: Counter[str]) -> dict[str, Any]:
    """Sums over all orders and gift cards of the run, as the server has them. captured = refunded + kept."""
    sums = books.sums
    kinds = sorted(name.removeprefix("captured ") for name in sums if name.startswith("captured "))
    return {
        "kept": _amount(sums["captured"] - sums["refunded"]),
        "carried_by_exchanges": _amount(sums["carried"]),
        "by_tender": {
            kind: {"captured": _amount(sums[f"captured {kind}"]), "refunded": _amount(sums[f"refunded {kind}"])}
            for kind in kinds
        },
        "gift_cards": {
            "issued": _amount(sums["gift_cards_issued"]),
            "issued_for_blind_returns": _amount(counts["blind_refunds_minor"]),
            "spent": _amount(sums["captured gift_card"]),
            "came_back": _amount(sums["back_on_gift_cards"]),
            "balance": _amount(sums["gift_cards_balance"]),
        },
    }


def _amount(minor: int) -> dict[str, Any]:
    return {"currency_code": CURRENCY, "minor": minor}
