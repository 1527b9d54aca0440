"""A server that starts while what it needs comes and goes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from onhand import app as app_module
from onhand.app import App
from onhand.clock import LedgerClock
from onhand.domain.errors import GateUnavailable, LedgerUnavailable
from onhand.postgres import Database
from onhand.redis import GateConnections
from onhand.reservations.policy import Policy


@pytest.mark.parametrize(
    ("place", "name", "error"),
    [
        (Database, "open", LedgerUnavailable("it is just starting")),
        (app_module, "check_revision", LedgerUnavailable("it died since the connection was opened")),
        (GateConnections, "check", GateUnavailable("it is just starting")),
        (LedgerClock, "set_by", LedgerUnavailable("it died since its revision was read")),
        (Policy, "refresh", LedgerUnavailable("it died since its time was read")),
    ],
    ids=["connect", "revision", "gate", "clock", "policy"],
)
async def test_a_starting_server_outlives_an_outage_at_each_of_its_first_questions(
    place: Any,
    name: str,
    error: Exception,
    database_dsn: str,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    question: Callable[..., Awaitable[Any]] = getattr(place, name)
    asked: list[str] = []

    async def ask(*arguments: Any) -> Any:
        asked.append(name)
        if len(asked) == 1:
            raise error
        return await question(*arguments)

    monkeypatch.setattr(place, name, ask)
    monkeypatch.setattr(app_module, "START_PAUSE_SECONDS", 0.0)

    app = await App.open(database_dsn, redis_url)
    await app.close()

    assert len(asked) == 2
