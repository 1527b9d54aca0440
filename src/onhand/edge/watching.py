"""Server streams: what a location's store board watches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from google.protobuf.message import DecodeError

from onhand.caller import Caller
from onhand.domain.errors import ServerStopping, invalid
from onhand.edge.admission import Budget
from onhand.edge.method import Calls
from onhand.edge.validation import Validator
from onhand.v1 import order_pb2 as pb

VALIDATOR = Validator([pb.WatchFulfillmentOrdersRequest])

Watch = Callable[[str, str], AsyncGenerator[pb.WatchFulfillmentOrdersResponse, None]]
"""(location_id, cursor): an asynchronous generator."""


class Watching:
    """The rpcs by which somebody watches."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._check = VALIDATOR.check

    async def watch_fulfillment_orders(
        self,
        read: Callable[[], Awaitable[bytes | None]],
        write: Callable[[bytes], Awaitable[None]],
        caller: Caller,
        budget: Budget,
        calls: Calls,
    ) -> None:
        """OrderService.WatchFulfillmentOrders, until its caller goes away or the server stops."""
        encoded = await read()
        if encoded is None:
            return
        try:
            request = pb.WatchFulfillmentOrdersRequest.FromString(encoded)
        except DecodeError:
            raise invalid("request", "is no onhand.v1.WatchFulfillmentOrdersRequest") from None
        self._check(request)
        if calls.is_stopping:
            raise ServerStopping
        async with aclosing(self._watch(request.location_id, request.cursor)) as messages:
            async for message in messages:
                await write(message.SerializeToString())
