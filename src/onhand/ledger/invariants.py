"""What must hold in the ledger at every moment, each rule a query for the rows that break it.

The queries are set-based and run one after the other in one snapshot. None of them trusts what the code that writes the rows
believes: levels are compared with movements, movements with orders, orders with claims and with the requests that made them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from onhand.ledger.offer_rules import OFFER_RULES
from onhand.ledger.order_rules import ORDER_RULES
from onhand.ledger.payment_rules import PAYMENT_RULES
from onhand.ledger.return_rules import RETURN_RULES
from onhand.ledger.rule import Rule
from onhand.ledger.shortfall_rules import SHORTFALL_RULES
from onhand.ledger.stock_rules import STOCK_RULES
from onhand.ledger.stock_work_rules import STOCK_WORK_RULES
from onhand.postgres import Connection

EVIDENCE_MAX = 20
"""Violations of one rule that are shown; all are counted."""
CHECK_SECONDS_MAX = 600.0
"""How long one query may take."""
# Sorts and hashes of millions of rows stay in memory where they can; a scan may use a second core.
WORK_MEMORY = "SET LOCAL work_mem = '128MB'"

RULES: Sequence[Rule] = (
    *STOCK_RULES, *STOCK_WORK_RULES, *ORDER_RULES, *OFFER_RULES, *SHORTFALL_RULES, *PAYMENT_RULES, *RETURN_RULES
)  # fmt: skip

_EVIDENCE = """
SELECT v.*, count(*) OVER () AS violations_in_all FROM ({query}) v ORDER BY 1, 2 LIMIT {limit}"""

Progress = Callable[[str], None]
"""Told what is being checked, in a line for a person."""


@dataclass(frozen=True)
class Check:
    """What became of one rule: `violations` are the first EVIDENCE_MAX of `count` rows that break it."""

    name: str
    statement: str
    violations: Sequence[dict[str, Any]]
    count: int
    seconds: float

    @property
    def is_ok(self) -> bool:
        """Whether nothing breaks it."""
        return not self.count

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        return {
            "name": self.name,
            "statement": self.statement,
            "ok": self.is_ok,
            "violations": list(self.violations),
            "count": self.count,
            "seconds": round(self.seconds, 3),
        }


async def check_rules(
    snapshot: Connection, progress: Progress | None = None, evidence_max: int | None = None
) -> list[Check]:
    """Every rule, in a connection that sees one moment of the ledger."""
    await snapshot.execute(WORK_MEMORY)
    checks = []
    for number, rule in enumerate(RULES, 1):
        if progress:
            progress(f"{rule.name} ({number} of {len(RULES)})")
        began = time.perf_counter()
        query = _EVIDENCE.format(query=rule.query, limit=evidence_max or EVIDENCE_MAX)
        rows = await snapshot.fetch(query, timeout=CHECK_SECONDS_MAX)
        count = rows[0]["violations_in_all"] if rows else 0
        violations = [dict(_evidence(row)) for row in rows]
        checks.append(Check(rule.name, rule.statement, violations, count, time.perf_counter() - began))
    return checks


def _evidence(row: Any) -> Iterator[tuple[str, Any]]:
    """The columns of a row as JSON has them."""
    for name, value in row.items():
        if name == "violations_in_all":
            continue
        if isinstance(value, Decimal):
            value = int(value)
        elif isinstance(value, UUID):
            value = str(value)
        elif isinstance(value, datetime):
            value = value.isoformat()
        yield name, value
