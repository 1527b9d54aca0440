"""The auditor, on a real run that nothing broke: it finds nothing in it, and every falsification of it."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from falsifications import FALSIFICATIONS, Falsify, Run, copy_of, final_reads, instead
from falsifications_of_orders import KINDS
from onhand.postgres import Database
from onhand.simulate.facts import STALE, Calm, Findings, Ledger
from onhand.simulate.history import read_history
from onhand.simulate.judge import judge, outcomes
from onhand.simulate.processes import context
from onhand.simulate.shop import open_shop
from onhand.simulate.workload import run_workload
from onhand.trials.faulty import active, until_over
from onhand.trials.ledger_rows import read_ledger
from onhand.trials.world import World

SEEDS = range(5, 9)
SECONDS = 12.0
LOOKED_AT = (
    "acknowledged",
    "repeats_compared",
    "movements",
    "effects",
    "reservations",
    "orders",
    "refusals",
    "reads",
    "ends_of_shortfalls",
    "lines_of_money",
    "tenders",
    "gift_cards",
    "payments_by_the_gateway",
    "sourced_reservations",
    "extended_holds",
    *(f"effects_of_{kind}" for kind in KINDS),
)
"""What every run has enough of to be judged by."""


pytestmark = pytest.mark.timeout(900)  # of the first test, which has it played


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A few seconds of load on a stack of its own, until every reservation is over.

    What its people come to is chance, and how fast the machine is: a run without something that is rare is played again.
    """
    for seed in SEEDS:
        run = _played(tmp_path_factory, seed)
        if _judged(run).evidence or not _lacks(run):
            break
    return run


def _lacks(run: Run) -> list[str]:
    """What did not happen in a run, and is needed here."""
    _, looked = judge(run.records, run.ledger, [])
    lacking = [what for what in LOOKED_AT if not looked.get(what)]
    for _, falsify in FALSIFICATIONS:
        try:
            falsify(run)
        except StopIteration:  # there is no such call
            lacking.append(falsify.__name__)
    return lacking


def _played(tmp_path_factory: pytest.TempPathFactory, seed: int) -> Run:
    folder = tmp_path_factory.mktemp("judge")
    folder.chmod(0o755)
    for parent in folder.parents[:2]:
        parent.chmod(0o755)  # as root, PostgreSQL runs as another user
    healed = context.Event()
    healed.set()
    with World(folder, servers=2, redis_server=None) as world:
        shop = open_shop(target=world.targets[0], folder=folder, run_id="judge", seed=seed)
        run_workload(
            shop=shop,
            targets=world.targets,
            seed=seed,
            seconds=SECONDS,
            processes=2,
            folder=folder,
            healed=healed,
        )
        until_over(world, lambda: asyncio.run(active(world.postgres_dsn)) == 0)
        ledger = dataclasses.replace(asyncio.run(_ledger(world.postgres_dsn)), gateway=world.stripe.books())
    return Run(read_history(sorted(folder.glob("history-*.jsonl"))), ledger)


async def _ledger(dsn: str) -> Ledger:
    database = await Database.open(dsn, pool_size=1)
    try:
        async with database.transaction(isolation="repeatable_read", readonly=True) as snapshot:
            return await read_ledger(snapshot)
    finally:
        await database.close()


def _judged(run: Run) -> Findings:
    return judge(run.records, run.ledger, [])[0]


def test_a_run_that_nothing_broke_has_no_findings_and_was_looked_at(run: Run) -> None:
    findings, looked = judge(run.records, run.ledger, [])

    assert findings.evidence == []
    assert not any(findings.counts.values())
    assert looked["positions_decided_by_bounds"] == 0
    assert looked["positions_decided_exactly"] == len(run.ledger.levels)
    assert _lacks(run) == []
    assert outcomes(run.records)["acknowledged"] == looked["acknowledged"] + looked["repeats_compared"]


@pytest.mark.parametrize(("counter", "falsify"), [pytest.param(c, f, id=f.__name__) for c, f in FALSIFICATIONS])
def test_every_falsification_is_found(run: Run, counter: str, falsify: Falsify) -> None:
    findings = _judged(falsify(run))

    assert findings.counts[counter] > 0, findings.evidence
    assert any(each["counter"] == counter and each["what"] for each in findings.evidence)


def test_every_final_read_that_is_one_off_is_found(run: Run) -> None:
    """Whatever the position: nobody calls beside these reads. What is given back late, or was never answered, could be meant."""
    last_expiry = max((c.commit for c in run.ledger.claims if c.state == "expired"), default=0.0)
    is_all_known = not outcomes(run.records)["unknown"]
    tried = missed = 0
    for record in final_reads(run)[:4]:
        for number in range(0, len(record.answer.locations[0].items), 4):
            answer = copy_of(record.answer)
            item = answer.locations[0].items[number]
            item.available_to_promise += 1
            findings = _judged(instead(run, record, answer=answer))
            tried += 1
            missed += not findings.counts[STALE] and record.begin > last_expiry and is_all_known
    assert tried > 20
    assert missed == 0


def test_what_is_calm_is_time_without_faults() -> None:
    calm = Calm([(10, 12), (11, 14), (20, 21)])

    assert calm.after(0, 5) == 5
    assert calm.after(8, 5) == 17
    assert calm.after(8, 9) == 22
    assert calm.after(12, 1) == 15
    assert calm.is_broken(13, 13.5)
    assert calm.is_broken(5, 10)
    assert not calm.is_broken(14.5, 19.5)
