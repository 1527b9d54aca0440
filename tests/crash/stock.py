"""Scenarios of reservations and of stock work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType

from google.protobuf.message import Message

from crash.many import CALLER
from crash.matrix import Call, Prepare, Scenario
from crash.process import Fault, Point
from crash.stage import Stage
from onhand.app import App
from onhand.inventory import Transfers
from onhand.v1 import inventory_pb2 as pb
from onhand.v1 import types_pb2
from shelf import add_product, request_id
from shop import BREAD, MILK, NORTH, SOUTH, Shop

SCENARIOS: list[Scenario] = []


def scenario(
    workflow: str,
    how: str,
    *,
    work: Call | None = None,
    lost: tuple[str, ...] = (),
    refusal: str = "",
    is_tight: bool = False,
    is_carried_on: bool = False,
) -> Callable[[Prepare], Prepare]:
    """Makes a scenario of what leads up to it."""

    def add(prepare: Prepare) -> Prepare:
        SCENARIOS.append(Scenario(workflow, how, prepare, work, frozenset(lost), refusal, is_carried_on, is_tight))
        return prepare

    return add


def scenarios_of(module: ModuleType) -> list[Scenario]:
    """Those that a module declares."""
    return [each for each in SCENARIOS if each.prepare.__module__ == module.__name__]


def basket(lines: Mapping[str, int]) -> list[types_pb2.BasketLine]:
    return [types_pb2.BasketLine(sku=sku, quantity=quantity) for sku, quantity in lines.items()]


def reserve(baskets: Mapping[str, Mapping[str, int]]) -> pb.ReserveRequest:
    """A Reserve of the web."""
    return pb.ReserveRequest(
        request_id=request_id(),
        channel=types_pb2.CHANNEL_WEB,
        baskets=[pb.LocationBasket(location_id=place, lines=basket(lines)) for place, lines in baskets.items()],
    )


async def orphan(stage: Stage, request: pb.ReserveRequest) -> None:
    """A claim in the gate whose process died before it was journalled."""
    process = await stage.process()
    process.aim(Point("gate.take", 1, "after"), Fault.CRASH)
    await process.run(lambda app: Shop(app).promise.reserve(request, CALLER))
    assert process.is_dead


# ------------------------------------------------------------------------------------------------------------ reservations
@scenario("Reserve", "at one location")
async def _(stage: Stage, shop: Shop) -> Message:
    return reserve({NORTH: {MILK: 2, BREAD: 1}})


@scenario("Reserve", "at two locations")
async def _(stage: Stage, shop: Shop) -> Message:
    return reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 1}})


@scenario("Reserve", "more than half of what is there", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    return reserve({NORTH: {MILK: 6}})


async def past_the_gate(stage: Stage, quantity: int) -> None:
    """A sale that no gate heard of: what the gate says is more than there is, under an epoch that the ledger left."""
    process = await stage.process()
    process.lost = frozenset("*")
    await process.run(lambda app: Shop(app).sell(NORTH, {MILK: quantity}, quantity * 199))


@scenario("Reserve", "more than a sale past the gate left", refusal="INSUFFICIENT_STOCK")
async def _(stage: Stage, shop: Shop) -> Message:
    await past_the_gate(stage, 8)
    return reserve({NORTH: {MILK: 5}})


@scenario("Reserve", "one of two locations is short", refusal="INSUFFICIENT_STOCK")
async def _(stage: Stage, shop: Shop) -> Message:
    return reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 11}})


@scenario("Reserve", "the gate lost its data")
async def _(stage: Stage, shop: Shop) -> Message:
    await stage.redis.flushall()
    return reserve({NORTH: {MILK: 2}})


@scenario("Reserve", "the ledger left the gate's epoch")
async def _(stage: Stage, shop: Shop) -> Message:
    await stage.raise_epoch(NORTH)
    return reserve({NORTH: {MILK: 2}, SOUTH: {MILK: 1}})


@scenario("Reserve", "what it takes is due for expiry", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await stage.pass_deadline(await shop.reserve({NORTH: {MILK: 9}}))
    return reserve({NORTH: {MILK: 5}})


@scenario("Reserve", "what it takes is held by an orphan past its hint", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await orphan(stage, reserve({NORTH: {MILK: 9}}))
    await stage.pass_hints()
    return reserve({NORTH: {MILK: 5}})


@scenario("Reserve", "what it takes came while the gate was outdated", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.reserve({NORTH: {MILK: 10}})
    process = await stage.process()
    process.lost = frozenset("*")
    await process.run(lambda app: Shop(app).receive(NORTH, {MILK: 5}))
    return reserve({NORTH: {MILK: 5}})


def many(*baskets: Mapping[str, Mapping[str, int]]) -> list[pb.ReserveRequest]:
    """Reservations that are asked for together."""
    return [reserve(each) for each in baskets]


@scenario("BatchReserve", "three at two locations, one of them twice")
async def _(stage: Stage, shop: Shop) -> Message:
    requests = many({NORTH: {MILK: 1}}, {NORTH: {MILK: 2, BREAD: 1}, SOUTH: {MILK: 1}}, {SOUTH: {BREAD: 3}})
    return pb.BatchReserveRequest(requests=[*requests, requests[1]])


@scenario("BatchReserve", "one of three is more than there is", refusal="INSUFFICIENT_STOCK")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.BatchReserveRequest(requests=many({NORTH: {MILK: 1}}, {NORTH: {MILK: 11}}, {SOUTH: {MILK: 1}}))


@scenario("BatchReserve", "one of two takes what is due for expiry", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await stage.pass_deadline(await shop.reserve({NORTH: {MILK: 9}}))
    return pb.BatchReserveRequest(requests=many({NORTH: {MILK: 1}}, {NORTH: {MILK: 5}}))


@scenario("ReserveStream", "one, and once it is answered two more")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.ReserveStreamRequest(
        requests=many({NORTH: {MILK: 1}}, {NORTH: {MILK: 2}, SOUTH: {MILK: 1}}, {SOUTH: {BREAD: 3}})
    )


@scenario("ChangeReservation", "to more, and to another location", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    reservation_id = await shop.reserve({NORTH: {MILK: 6}})
    baskets = reserve({NORTH: {MILK: 7}, SOUTH: {BREAD: 1}}).baskets
    return pb.ChangeReservationRequest(request_id=request_id(), reservation_id=reservation_id, baskets=baskets)


@scenario("ExtendReservation", "by half an hour")
async def _(stage: Stage, shop: Shop) -> Message:
    reservation_id = await shop.reserve({NORTH: {MILK: 6}}, ttl_seconds=60)
    return pb.ExtendReservationRequest(request_id=request_id(), reservation_id=reservation_id, ttl_seconds=1800)


@scenario("ReleaseReservation", "at two locations")
async def _(stage: Stage, shop: Shop) -> Message:
    reservation_id = await shop.reserve({NORTH: {MILK: 6}, SOUTH: {BREAD: 1}})
    return pb.ReleaseReservationRequest(request_id=request_id(), reservation_id=reservation_id)


@scenario("ReleaseReservation", "the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    reservation_id = await shop.reserve({NORTH: {MILK: 6}})
    return pb.ReleaseReservationRequest(request_id=request_id(), reservation_id=reservation_id)


# ------------------------------------------------------------------------------------------------------------------- stock
def receive() -> pb.ReceiveStockRequest:
    """Goods of two products."""
    return pb.ReceiveStockRequest(request_id=request_id(), location_id=NORTH, lines=basket({MILK: 3, BREAD: 4}))


@scenario("ReceiveStock", "of two products")
async def _(stage: Stage, shop: Shop) -> Message:
    return receive()


@scenario("ReceiveStock", "of what an order lacks")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.place({NORTH: {MILK: 10}})
    await shop.sell(NORTH, {MILK: 2}, 2 * 199)
    return receive()


@scenario("ReceiveStock", "the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    return receive()


@scenario("ReceiveStock", "the gate's epoch is outdated")
async def _(stage: Stage, shop: Shop) -> Message:
    await stage.raise_epoch(NORTH)
    return receive()


@scenario("AdjustStock", "down")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.AdjustStockRequest(
        request_id=request_id(), location_id=NORTH, sku=MILK, quantity=-3, reason_code="CORRECTION"
    )


@scenario("AdjustStock", "up")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.AdjustStockRequest(
        request_id=request_id(), location_id=NORTH, sku=MILK, quantity=3, reason_code="CORRECTION"
    )


@scenario("AdjustStock", "down, into what is promised", refusal="INSUFFICIENT_STOCK")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.reserve({NORTH: {MILK: 8}})
    return pb.AdjustStockRequest(
        request_id=request_id(), location_id=NORTH, sku=MILK, quantity=-3, reason_code="CORRECTION"
    )


@scenario("AdjustStock", "down, more than a sale past the gate left unpromised", refusal="INSUFFICIENT_STOCK")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.reserve({NORTH: {MILK: 7}})
    await past_the_gate(stage, 3)
    return pb.AdjustStockRequest(
        request_id=request_id(), location_id=NORTH, sku=MILK, quantity=-3, reason_code="CORRECTION"
    )


@scenario("AdjustStock", "down, with an epoch that the ledger left")
async def _(stage: Stage, shop: Shop) -> Message:
    await stage.raise_epoch(NORTH)
    return pb.AdjustStockRequest(
        request_id=request_id(), location_id=NORTH, sku=MILK, quantity=-3, reason_code="CORRECTION"
    )


def count(**counted: int) -> pb.CountStockRequest:
    """What a person counted in the north."""
    return pb.CountStockRequest(
        request_id=request_id(),
        location_id=NORTH,
        lines=[pb.CountedLine(sku=sku, counted_quantity=quantity) for sku, quantity in counted.items()],
    )


@scenario("CountStock", "one up, one down")
async def _(stage: Stage, shop: Shop) -> Message:
    return count(milk=8, bread=12)


@scenario("CountStock", "down, into what is promised", is_tight=True)
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.reserve({NORTH: {MILK: 8}})
    return count(milk=5)


@scenario("CountStock", "down, into what orders wait for, and up into what they lack")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.place({NORTH: {MILK: 10, BREAD: 10}})
    await shop.sell(NORTH, {BREAD: 2}, 2 * 250)
    return count(milk=8, bread=9)


@scenario("CountStock", "down, the gate is not reached", lost=("*",))
async def _(stage: Stage, shop: Shop) -> Message:
    return count(milk=8)


@scenario("MoveStock", "to damaged")
async def _(stage: Stage, shop: Shop) -> Message:
    return move(pb.BUCKET_AVAILABLE, pb.BUCKET_DAMAGED)


@scenario("MoveStock", "back to available")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.stock.move_stock(move(pb.BUCKET_AVAILABLE, pb.BUCKET_DAMAGED), CALLER)
    return move(pb.BUCKET_DAMAGED, pb.BUCKET_AVAILABLE)


def move(from_bucket: pb.Bucket.ValueType, to_bucket: pb.Bucket.ValueType) -> pb.MoveStockRequest:
    """Two units between buckets."""
    return pb.MoveStockRequest(
        request_id=request_id(),
        location_id=NORTH,
        sku=MILK,
        quantity=2,
        from_bucket=from_bucket,
        to_bucket=to_bucket,
        reason_code="DAMAGED",
    )


def dispatch() -> pb.DispatchTransferRequest:
    """Two products on their way from north to south."""
    return pb.DispatchTransferRequest(
        request_id=request_id(), from_location_id=NORTH, to_location_id=SOUTH, lines=basket({MILK: 3, BREAD: 1})
    )


@scenario("DispatchTransfer", "of two products")
async def _(stage: Stage, shop: Shop) -> Message:
    return dispatch()


@scenario("ReceiveTransfer", "a part of it")
async def _(stage: Stage, shop: Shop) -> Message:
    (transfers,) = (h for h in shop.handlers if isinstance(h, Transfers))
    sent = await transfers.dispatch_transfer(dispatch(), CALLER)
    return pb.ReceiveTransferRequest(
        request_id=request_id(), transfer_id=sent.transfer.transfer_id, lines=basket({MILK: 2})
    )


# ---------------------------------------------------------------------------------------------------------------- policies
@scenario("SetStockPolicy", "of a product with stock")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.SetStockPolicyRequest(request_id=request_id(), location_id=NORTH, sku=MILK, safety_stock=4)


@scenario("SetChannelThreshold", "of the web")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.SetChannelThresholdRequest(request_id=request_id(), channel=types_pb2.CHANNEL_WEB, sku=MILK, quantity=4)


# --------------------------------------------------------------------------------------------------------------- locations
@scenario("CreateLocation", "a store")
async def _(stage: Stage, shop: Shop) -> Message:
    location = pb.Location(location_id="store-new", kind=pb.LOCATION_KIND_STORE, name="New")
    return pb.CreateLocationRequest(request_id=request_id(), location=location)


@scenario("UpdateLocation", "its name")
async def _(stage: Stage, shop: Shop) -> Message:
    request = pb.UpdateLocationRequest(request_id=request_id())
    request.location.location_id, request.location.name = NORTH, "North"
    request.update_mask.paths.append("name")
    return request


@scenario("DeleteLocation", "that holds nothing")
async def _(stage: Stage, shop: Shop) -> Message:
    await shop.add_location("store-old")
    return pb.DeleteLocationRequest(request_id=request_id(), location_id="store-old")


@scenario("SetLocationGroup", "of two members")
async def _(stage: Stage, shop: Shop) -> Message:
    return pb.SetLocationGroupRequest(
        request_id=request_id(), location_group_id="region", name="Region", location_ids=[NORTH, SOUTH]
    )


# ------------------------------------------------------------------------------------------------------------------- loops
@scenario("expiring reservations", "at two locations", work=lambda app: app.sweeper.expire())
async def _(stage: Stage, shop: Shop) -> None:
    await stage.pass_deadline(await shop.reserve({NORTH: {MILK: 6}, SOUTH: {BREAD: 1}}))


@scenario(
    "patrol", "an orphan, an extended reservation, one that was given back", work=lambda app: app.sweeper.patrol()
)
async def _(stage: Stage, shop: Shop) -> None:
    await orphan(stage, reserve({NORTH: {MILK: 2}}))
    reservation_id = await shop.reserve({NORTH: {MILK: 3}})
    await shop.reserve({SOUTH: {MILK: 3}})
    process = await stage.process()
    process.aim(Point("gate.drop", 1, "before"), Fault.CRASH)
    message = pb.ReleaseReservationRequest(request_id=request_id(), reservation_id=reservation_id)
    await process.run(lambda app: Shop(app).promise.release_reservation(message, CALLER))
    assert process.is_dead
    await stage.pass_hints()


@scenario("patrol", "increases that were not relayed", work=lambda app: app.sweeper.patrol())
async def _(stage: Stage, shop: Shop) -> None:
    for _ in range(2):
        process = await stage.process()
        process.aim(Point("ledger.mutate", 1, "after"), Fault.CRASH)
        await process.run(lambda app: Shop(app).stock.receive_stock(receive(), CALLER))
        assert process.is_dead


@scenario("rebuild", "in parts, with a reservation", work=lambda app: app.rebuilder.rebuild(NORTH, is_forced=True))
async def _(stage: Stage, shop: Shop) -> None:
    for sku in ("a", "b", "c"):
        await add_product(shop.catalog, sku)
        await shop.receive(NORTH, {sku: 5})
        await shop.reserve({NORTH: {sku: 1}})


@scenario("rebuild", "the gate lost its data", work=lambda app: app.rebuilder.rebuild(NORTH))
async def _(stage: Stage, shop: Shop) -> None:
    await shop.reserve({NORTH: {MILK: 1}})
    await orphan(stage, reserve({NORTH: {MILK: 2}}))
    await stage.redis.flushall()


async def reconcile(app: App) -> None:
    """Looks twice: a step that failed goes on with other locations first."""
    await app.reconciler.step()
    await app.reconciler.step()


@scenario("reconciling", "a difference that lasts", work=reconcile)
async def _(stage: Stage, shop: Shop) -> None:
    await stage.redis.hincrby("oh:{" + NORTH + "}:stock", MILK, -2)


@scenario("setting the clock", "once", work=lambda app: app.clock.set_by(app.database))
async def _(stage: Stage, shop: Shop) -> None:
    pass
