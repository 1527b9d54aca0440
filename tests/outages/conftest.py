"""Room between the answers of a server and the deadlines of its callers, so that a slow machine is no outage."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest


@pytest.fixture(autouse=True)
def early_answers() -> Iterator[None]:
    """A call is answered up to two seconds before its deadline: server and caller share this process, and may both stand still."""
    with patch.multiple("onhand.edge.method", ANSWER_SECONDS_MAX=2.0, ANSWER_SHARE=0.5):
        yield
