"""The wiring: what a server process is made of."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from onhand.carts import Carts
from onhand.catalog import Catalog
from onhand.clock import LedgerClock
from onhand.domain.errors import GateUnavailable, LedgerUnavailable
from onhand.domain.lost_stock import LostStockPolicy
from onhand.domain.payment import Provider
from onhand.edge.gateway import Gateway
from onhand.edge.server import Server
from onhand.edge.watching import Watching
from onhand.inventory import Backorders, Counts, Future, Locations, Notices, Promise, Stock, Transfers
from onhand.jobs import Jobs
from onhand.ledger.claims import Settlement
from onhand.ledger.mutation import Ledger
from onhand.ledger.revision import check_revision
from onhand.orders import Orders
from onhand.orders.board import Board
from onhand.orders.checkouts import Checkouts
from onhand.orders.lost_stock import ByPolicy, LostStock
from onhand.orders.offers import OfferExpiry
from onhand.orders.waiting import Pickups
from onhand.payments import Payments
from onhand.payments.providers import PaymentProvider
from onhand.payments.renewing import Renewing
from onhand.payments.settling import Settling
from onhand.payments.webhooks import Webhooks
from onhand.postgres import Database
from onhand.redis import GateConnections
from onhand.reservations.availability import Availability
from onhand.reservations.claims import Claims
from onhand.reservations.decrease import Decreases
from onhand.reservations.gate import LIBRARY, Gate
from onhand.reservations.holding import Holding
from onhand.reservations.journal import Journal
from onhand.reservations.policy import Policy
from onhand.reservations.rebuild import Rebuilder
from onhand.reservations.reconcile import Reconciler
from onhand.reservations.relay import Relay
from onhand.reservations.reserve import Reservations
from onhand.reservations.sweep import Sweeper, repeat
from onhand.returns import Returns
from onhand.returns.expiry import Expiring
from onhand.returns.policy_file import policy_of
from onhand.settings import host_of, lost_stock_policy, stripe_account
from onhand.sourcing import Decisions, Preview, SourcedReservations, Sourcing
from onhand.sourcing.policy_file import load_policy

if TYPE_CHECKING:
    from onhand.domain.sourcing import Policy as SourcingPolicy
    from onhand.edge.http import HttpServer

log = logging.getLogger(__name__)

Opened = TypeVar("Opened")

START_ATTEMPTS_MAX = 30
"""How often a starting server asks for its database and gate."""
START_PAUSE_SECONDS = 1.0
"""How long it waits between two attempts."""
EXPIRE_SECONDS = 0.25
"""How often reservations past their deadline are looked for: their units are sellable within a second."""
PATROL_SECONDS = 1.0
"""How often the next locations are looked at for orphans and increases not relayed."""
FILL_SECONDS = 1.0
"""How often it is looked for units that became free beside backorders."""
RECONCILE_SECONDS = 1.0
"""How often the next locations are compared, gate and ledger."""
JOBS_SECONDS = 1.0
"""How often jobs that are due are looked for."""
PICKUPS_SECONDS = 15.0
"""How often pickups are looked for whose customers are to be reminded, or did not come."""
PRUNE_SECONDS = 600.0
"""How often what became of jobs long ago is forgotten."""
CLOCK_SECONDS = 60.0
"""How often the ledger is asked for its time."""


class App:
    """One server process: handlers, and the loops that close, relay and compare."""

    def __init__(
        self,
        database: Database,
        connections: GateConnections,
        providers: Mapping[Provider, PaymentProvider] = MappingProxyType({}),
        sourcing_policy: SourcingPolicy | None = None,
        lost_stock: LostStockPolicy | None = None,
    ) -> None:
        self.database = database
        self.connections = connections
        self.clock = LedgerClock()
        self.gate = Gate(connections)
        self.policy = Policy(database)
        self.rebuilder = Rebuilder(database, self.gate)
        self.relay = Relay(database, self.gate, self.rebuilder)
        self.ledger = Ledger(database, self._settle)
        self.sweeper = Sweeper(database, self.gate, self.relay, self.rebuilder, self.clock)
        self.claims = Claims(self.gate, self.rebuilder, self.relay, self.policy)
        self.decreases = Decreases(self.ledger, self.claims, self.sweeper, self.rebuilder, self.clock)
        self.backorders = Backorders(self.ledger, self.decreases)
        self.reservations = Reservations(
            self.ledger, self.claims, Journal(database), self.sweeper, self.policy, self.clock
        )
        self.availability = Availability(database, self.gate, self.rebuilder, self.policy)
        self.reconciler = Reconciler(database, self.gate, self.rebuilder)
        self._providers = providers
        self.jobs = Jobs(database)
        self.settling = Settling(database, self.jobs, providers)
        Expiring(database, self.jobs)
        OfferExpiry(database, self.jobs)
        self.sourcing = Sourcing(self.ledger, self.availability, self.clock, sourcing_policy or load_policy())
        self.renewing = Renewing(database, self.jobs)
        self.lost_stock = LostStock(
            self.ledger,
            self.jobs,
            lost_stock or LostStockPolicy(),
            ByPolicy(self.ledger, self.decreases, self.sourcing),
        )
        checkouts = Checkouts(self.ledger, self.decreases, self.settling, self.jobs, self.lost_stock.policy)
        self.pickups = Pickups(self.ledger)
        self.board = Board(self.ledger)
        self.decisions = Decisions(database)
        holding = Holding(self.ledger, self.claims, self.sweeper, self.policy, self.clock)
        return_policy = policy_of()
        promise = Promise(self.ledger, self.availability, self.reservations)
        self.services: dict[str, tuple[object, ...]] = {
            "onhand.v1.InventoryService": (
                Locations(self.ledger),
                Stock(self.ledger, self.decreases),
                Transfers(self.ledger, self.decreases),
                promise,
                Gateway(promise.reserve),
            ),
            "onhand.v1.ReceivingService": (Notices(self.ledger), Future(self.ledger)),
            "onhand.v1.CountService": (Counts(self.ledger, self.decreases),),
            "onhand.v1.CatalogService": (Catalog(self.ledger),),
            "onhand.v1.CartService": (Carts(self.ledger, checkouts.give_up),),
            "onhand.v1.OrderService": (
                Orders(self.ledger, self.decreases, checkouts, self.sourcing, return_policy),
                Watching(self.board.watch),
            ),
            "onhand.v1.PaymentService": (Payments(self.ledger), Webhooks(self.ledger, providers)),
            "onhand.v1.ReturnService": (Returns(self.ledger, self.decreases, return_policy),),
            "onhand.v1.SourcingService": (
                Preview(self.sourcing),
                SourcedReservations(self.ledger, holding, self.sourcing),
            ),
        }
        self._loops: list[asyncio.Task[None]] = []

    async def _settle(self, settlements: Sequence[Settlement]) -> None:
        await self.relay.settle(settlements)

    @classmethod
    async def open(
        cls,
        postgres_dsn: str,
        redis_url: str,
        providers: Mapping[Provider, PaymentProvider] | None = None,
        sourcing_policy: SourcingPolicy | None = None,
        lost_stock: LostStockPolicy | None = None,
    ) -> App:
        """Connects to both, waiting for what does not answer: LedgerUnavailable and GateUnavailable say where and what to do.

        `providers`: gateways of payments; those that the environment names, if left out. `sourcing_policy`: onhand's own if left
        out. `lost_stock`: what the environment says, if left out. Raises Unusable at once where waiting does not help.
        """
        connections = GateConnections(redis_url, LIBRARY)
        ledger = f"PostgreSQL at {host_of(postgres_dsn)}"
        database = await patiently(ledger, lambda: Database.open(postgres_dsn))
        try:
            # Each of them anew: what answered a moment ago may be gone.
            await patiently(ledger, lambda: check_revision(database))
            await patiently(f"Redis/Valkey at {host_of(redis_url)}", connections.check)
            known = configured_providers(os.environ) if providers is None else providers
            app = cls(database, connections, known, sourcing_policy, lost_stock or lost_stock_policy(os.environ))
            await patiently(ledger, app.prepare)
        except BaseException:
            await connections.close()
            await database.close()
            raise
        return app

    async def prepare(self) -> None:
        """Learns what a server has to know before its first call."""
        await self.clock.set_by(self.database)
        await self.policy.refresh(1)

    def loops(self) -> Sequence[tuple[str, Callable[[], Awaitable[object]], float]]:
        """What goes on beside the calls: its name, one step of it, and the seconds between two."""
        return (
            ("expiring reservations", self.sweeper.expire, EXPIRE_SECONDS),
            ("patrol", self.sweeper.patrol, PATROL_SECONDS),
            ("jobs", self.jobs.run_due, JOBS_SECONDS),
            ("filling backorders", self.backorders.fill, FILL_SECONDS),
            ("pruning the log of jobs", self.jobs.prune, PRUNE_SECONDS),
            ("forgetting decisions", self.decisions.forget, PRUNE_SECONDS),
            ("reconciling", self.reconciler.step_in_turn, RECONCILE_SECONDS),
            ("pickups", self.pickups.sweep, PICKUPS_SECONDS),
            ("setting the clock", lambda: self.clock.set_by(self.database), CLOCK_SECONDS),
        )

    def start_loops(self) -> None:
        """Begins what goes on beside the calls."""
        for what, step, pause in self.loops():
            self._loops.append(asyncio.create_task(repeat(what, step, pause), name=what))

    def server(self, extra_handlers: Sequence[grpc.GenericRpcHandler[Any, Any]] = ()) -> Server:
        """The gRPC server of this process; `extra_handlers` are served beside its own."""
        return Server(self.services, extra_handlers)

    def second_edge(self, server: Server, host: str, port: int, origins: Sequence[str] = ()) -> HttpServer:
        """Connect, in front of the same methods. Stop the server first: it drains both."""
        from onhand.edge.connect import Connect  # who does not ask for it does not load it
        from onhand.edge.http import HttpServer

        return HttpServer(Connect(server.methods, server.calls, origins=origins).__rsgi__, host, port)

    async def close(self) -> None:
        """Ends the loops and the connections."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.board.close()
        for provider in self._providers.values():
            await provider.close()
        await self.rebuilder.close()
        await self.relay.close()
        await self.connections.close()
        await self.database.close()


def configured_providers(environment: Mapping[str, str]) -> dict[Provider, PaymentProvider]:
    """The gateways that the environment names."""
    account = stripe_account(environment)
    if account is None:
        return {}
    from onhand.payments.stripe import Stripe  # who does not use it does not load it

    return {Provider.STRIPE: Stripe(account.key, url=account.url, webhook_secret=account.webhook_secret)}


async def patiently(what: str, attempt: Callable[[], Awaitable[Opened]]) -> Opened:
    """Tries until it works, START_ATTEMPTS_MAX times."""
    for n in range(1, START_ATTEMPTS_MAX + 1):
        try:
            return await attempt()
        except (LedgerUnavailable, GateUnavailable) as error:
            if n == START_ATTEMPTS_MAX:
                raise type(error)(
                    f"{what} did not answer in {n} attempts ({error.detail}). Start it, or correct its address"
                ) from error
            log.warning(
                "%s does not answer (%s); attempt %d of %d. Is it running, and is the DSN right?",
                what,
                error.detail,
                n,
                START_ATTEMPTS_MAX,
            )
            await asyncio.sleep(START_PAUSE_SECONDS)
    raise AssertionError("not reached")
