"""Whatever customers, stores and a bad gateway do in whatever order: no money appears, vanishes, or goes back twice."""

from __future__ import annotations

import random

import pytest

from gateway import DECLINED_CARD, Gateway
from onhand.domain.errors import Refusal
from onhand.v1 import order_pb2 as orders
from purse import back, do_jobs, issue, payments, tender
from shop import CALLER, MILK, NORTH, SOUTH, Shop, cents

CODE = "K7QF-3M9D-X2PA-88HT"
FAULTS = ("", "", "", "silent", "acts", "silent")


class Trade:
    """A customer's order, and what becomes of it."""

    def __init__(self, shop: Shop, gateway: Gateway, chance: random.Random) -> None:
        self.shop, self.gateway, self.chance = shop, gateway, chance
        self.order_id = ""

    def means(self, total: int) -> list[orders.Tender]:
        """A mix of tenders that adds up."""
        left, tenders = total, []
        for kind in self.chance.sample(
            ["CARD", "CASH", "GATEWAY", "LATER", "GIFT_CARD", "DECLINED"], self.chance.randint(1, 4)
        ):
            part = self.chance.randint(1, left - 1) if left > 1 and len(tenders) < 3 else left
            left -= part
            tenders.append(self._tender(kind, part))
            if not left:
                break
        return tenders if not left else [*tenders, self._tender("GATEWAY", left)]

    def _tender(self, kind: str, part: int) -> orders.Tender:
        if kind == "GATEWAY":
            return tender("CARD", part, payment_method="pm_1")
        if kind == "LATER":
            return tender("CARD", part, payment_method="pm_2", capture_at=orders.CAPTURE_AT_FULFILLMENT)
        if kind == "DECLINED" and self.chance.random() < 0.3:
            return tender("CARD", part, payment_method=DECLINED_CARD)
        if kind == "GIFT_CARD":
            return tender("GIFT_CARD", part, gift_card_code=CODE)
        return tender("CARD" if kind == "DECLINED" else kind, part)

    async def place(self) -> None:
        """Tries until it is known what became of it."""
        quantity = {NORTH: {MILK: self.chance.randint(1, 4)}, SOUTH: {MILK: self.chance.randint(1, 3)}}
        reservation_id = await self.shop.reserve(quantity)
        total = 199 * sum(lines[MILK] for lines in quantity.values())
        request = self.shop.place_request(
            reservation_id, dict.fromkeys(quantity, orders.FULFILLMENT_KIND_SHIP), total, tenders=self.means(total)
        )
        for _ in range(8):
            try:
                self.order_id = (await self.shop.orders.place_order(request, CALLER)).order.order_id
                return
            except Refusal as refusal:
                if refusal.reason != "PAYMENT_PENDING":
                    return
                if self.chance.random() < 0.3:
                    await self.shop.app.jobs.run_due()

    async def go_on(self) -> None:
        """One more thing happens; what is not possible is refused."""
        do = self.chance.choice([self.cancel, self.bring_back, self.leave, self.leave, self.jobs])
        try:
            await do()
        except Refusal as refusal:
            if refusal.reason not in ("CANCEL_EXCEEDED", "RETURN_EXCEEDED", "ILLEGAL_TRANSITION"):
                raise

    async def cancel(self) -> None:
        await self.shop.cancel(self.order_id, {1: self.chance.randint(1, 2)})

    async def bring_back(self) -> None:
        await self.shop.take_back(self.order_id, NORTH, back(self.chance.randint(1, 2)))

    async def leave(self) -> None:
        work = self.chance.choice((await self.shop.order(self.order_id)).fulfillment_orders).fulfillment_order_id
        for step in (self.shop.accept, self.shop.pick, self.shop.ship):
            await step(work)

    async def jobs(self) -> None:
        await self.shop.execute("UPDATE pgqueuer SET execute_after = now() - interval '1 hour'")
        await self.shop.app.jobs.run_due()


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_money_is_conserved_here_and_at_the_gateway(
    shop: Shop, gateway: Gateway, seed: int
) -> None:
    chance = random.Random(seed)
    card = await issue(shop, CODE, 2000)
    trades = [Trade(shop, gateway, chance) for _ in range(2)]
    for trade in trades:
        gateway.faults = [chance.choice(FAULTS) for _ in range(3)]
        await trade.place()
    for _ in range(12):
        gateway.faults = [chance.choice(FAULTS) for _ in range(2)]
        placed = [trade for trade in trades if trade.order_id]
        if placed:
            await chance.choice(placed).go_on()
    gateway.faults = []
    await do_jobs(shop)
    kept = 0
    for (order_id,) in await shop.fetch("SELECT order_id::text FROM orders"):  # jobs placed what nobody came back to
        order, paid = await shop.order(order_id), await payments(shop, order_id)
        assert sum(cents(p.amount) for p in paid) == cents(order.total)
        assert sum(cents(p.voided) + cents(p.refunded) for p in paid) == cents(order.refunded)
        assert all(not cents(p.owed) for p in paid)
        if order.state != orders.ORDER_STATE_OPEN:
            assert sum(cents(p.captured) - cents(p.refunded) for p in paid) == cents(order.total) - cents(
                order.refunded
            )
        kept += sum(cents(p.captured) - cents(p.refunded) for p in paid if p.gift_card_id)
    assert await shop.fetch("SELECT balance_minor FROM gift_cards") == [(cents(card.balance) - kept,)]
