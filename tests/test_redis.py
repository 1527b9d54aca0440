"""Connections to the gate that end at a bad moment."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from onhand.redis import GateConnections, Unreachable
from onhand.reservations.gate import LIBRARY


@pytest.mark.parametrize("is_open", [True, False])
async def test_a_connection_that_ended_between_two_writes_is_an_unreachable_gate(redis_url: str, is_open: bool) -> None:
    connections = GateConnections(redis_url, LIBRARY)
    try:
        if is_open:
            await connections.pipeline(lambda _: [("PING",)])
        # What uvloop's transport says, where asyncio's own would have dropped the bytes.
        ended = RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")
        with patch("asyncio.StreamWriter.writelines", side_effect=ended), pytest.raises(Unreachable):
            await connections.pipeline(lambda _: [("PING",)])
        assert await connections.pipeline(lambda _: [("PING",)]) == [b"PONG"]
    finally:
        await connections.close()
