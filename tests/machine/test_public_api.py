"""Whatever clients, stores and bad luck do in whatever order: every server answers as the model of a few hundred lines.

Two real server processes on a real ledger and gate are asked over gRPC. A failure is shrunk to the few calls that it takes and
printed with them. Sizes by the environment: ONHAND_MACHINE_EXAMPLES (10) and ONHAND_MACHINE_STEPS (30).
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from machine import base, machine, shop_rules
from machine.calls import snake
from machine.later_model import Model
from machine.machine import Machine
from machine.world import MUTATIONS, World
from onhand.verify import verify

EXAMPLES = int(os.environ.get("ONHAND_MACHINE_EXAMPLES", "10"))
STEPS = int(os.environ.get("ONHAND_MACHINE_STEPS", "30"))

TESTS = Path(__file__).parents[1]
NOT_PLAYED = {
    **dict.fromkeys(("BatchReserve", "ReserveStream"), "edge/test_gateway.py"),
    **dict.fromkeys(
        ("OfferSubstitute", "AcceptSubstituteOffer", "DeclineSubstituteOffer", "WithdrawSubstituteOffer"),
        "orders/test_offers.py",
    ),
    "ApplyOrderChange": "orders/test_change.py",
    "SourceReservation": "sourcing/test_source_reservation.py",
    "SettleRefund": "payments/test_checkouts.py",
    "HandleWebhook": "payments/test_checkouts.py",
    **dict.fromkeys(("IssueGiftCard", "TopUpGiftCard"), "payments/test_gift_cards.py"),
    **dict.fromkeys(("AuthorizeReturn", "CancelReturnAuthorization", "ReceiveReturn"), "returns/test_mail.py"),
    "CreateBlindReturn": "returns/test_blind.py",
    "CreateExchange": "returns/test_exchange.py",
    **dict.fromkeys(
        (
            "CreateAdvanceNotice",
            "UpdateAdvanceNotice",
            "CancelAdvanceNotice",
            "ReceiveAdvanceNotice",
            "CloseAdvanceNotice",
        ),
        "inventory/test_notices.py",
    ),
    **dict.fromkeys(
        ("StartCount", "SubmitCount", "RequestRecount", "ApproveCount", "CancelCount"), "inventory/test_counts.py"
    ),
}
"""Rpcs that the model knows nothing of yet, and what judges them instead. Each is a workflow of the crash matrix too."""


@pytest.fixture
def world(database_dsn: str, redis_url: str, tmp_path: Path) -> Iterator[World]:
    """Servers for the whole of a test."""
    world = World(database_dsn, redis_url, tmp_path / "servers.log")
    try:
        yield world
    finally:
        world.close()


@pytest.mark.timeout(1800)
def test_every_server_answers_as_the_model_whatever_happens(world: World) -> None:
    run_state_machine_as_test(
        lambda: Machine(world),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    report = world.run(verify(world.postgres_dsn, world.redis_url))
    assert report.is_ok, report.to_json()


def test_every_rpc_that_changes_something_has_a_rule_that_calls_it_and_a_model_that_judges_it() -> None:
    named = set()
    for module in (base, machine, shop_rules):
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        named |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    played = set(MUTATIONS) - NOT_PLAYED.keys()
    assert played - named == set()
    assert [rpc for rpc in played if not hasattr(Model, snake(rpc))] == []
    assert [rpc for rpc in NOT_PLAYED if hasattr(Model, snake(rpc))] == [], "it is played: take it from the list"
    assert [file for file in NOT_PLAYED.values() if not (TESTS / file).exists()] == []
