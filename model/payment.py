"""PlaceOrder with a payment in between (orders/checkouts.py).

  pend       One transaction, once a request: the checkout is stored as PENDING, under the id of the order to be; its reservation is
             extended and pinned, a job enqueued.
  authorize  Outside any transaction, with an idempotency key of that order: the bank answers a repeat as it answered first.
  place      One transaction, only while the checkout is PENDING and its reservation active: confirmed, the order OPEN. What a
             sale in hand took meanwhile is a shortfall of it, or the reason to give it up, as the retailer's policy says.
  give_up    One transaction, only while the checkout is PENDING: by who knows what the bank said, and that nothing comes of it; or
             by anybody, once the reservation is over. The reservation is the customer's again, until its deadline.
  void       After it was given up, again and again until the bank has taken it back. One whose answer nobody knows is asked for
             first, under its key: what is still on its way to the bank finds its answer there, and sets nothing aside any more.

An attempt may die anywhere. The job does the same steps from wherever the checkout is, at any time, also beside an attempt. What a
client asks for after a refusal is another checkout, with another order's id.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from model.search import State, Step, Transition, replaced


@dataclass(frozen=True)
class PaymentRules:
    """What could be got wrong."""

    key: str = "order"  # the idempotency key: of the order | of the attempt
    order_first: bool = True  # the order is stored before the bank is asked
    extends: bool = True  # the reservation is extended when the order is stored
    asks_before_voiding: bool = True  # what was given up without an answer is asked for before it is voided
    gives_up_before_voiding: bool = True  # void only what the ledger gave up | what looks as if it hung
    pins: bool = True  # nobody releases the reservation while it is paid for


class Till(NamedTuple):
    """A state."""

    order: str  # - none, P pending, O open, G given up, D given up and nothing held at the bank
    row: str  # of the reservation: A E C R X
    bank: str  # a letter a key: - never asked, Y authorized, N declined, V voided
    actors: tuple[tuple[str, str], ...]  # where it is, and what the bank told it
    is_short: bool  # possession took the units


class PaymentModel:
    """A scenario: so many attempts and jobs; the bank may decline, the reservation end, the units be taken."""

    def __init__(
        self,
        attempts: int = 2,
        jobs: int = 2,
        events: str = "NRS",
        keeps_short: bool = False,
        rules: PaymentRules | None = None,
    ) -> None:
        self.p, self.attempts, self.jobs, self.events = rules or PaymentRules(), attempts, jobs, events
        self.keeps_short = keeps_short  # what possession took is a shortfall of the order | the order is given up
        self.keys = 1 if self.p.key == "order" else attempts + jobs

    def initial(self) -> Till:
        """A reservation, and nobody has asked."""
        return Till("-", "A", "-" * self.keys, (("start", ""),) * (self.attempts + self.jobs), False)

    def canonical(self, s: State) -> Hashable:
        """Attempts are alike, and so are jobs."""
        if self.keys > 1:
            return s  # type: ignore[no-any-return]
        actors = (*sorted(s.actors[: self.attempts]), *sorted(s.actors[self.attempts :]))
        return s._replace(actors=actors)  # type: ignore[no-any-return]

    def steps(self, s: Till) -> Iterator[Transition]:
        """Whatever may happen next."""
        for i, (at, told) in enumerate(s.actors):
            is_job = i >= self.attempts
            name = f"job {i - self.attempts + 1}" if is_job else f"attempt {i + 1}"
            if at == "start":
                yield from self._job_begins(s, i, name) if is_job else self._begins(s, i, name)
            elif at == "pay":
                yield from self._authorize(s, i, name)
                if s.order == "P" and s.row == "X":
                    yield (
                        Step.GIVE_UP,
                        f"{name}: the bank is silent, the reservation over: given up",
                        self._given_up(s, i),
                    )
            elif at == "store":
                yield from self._pend(s, i, name, ("place", told))
            elif at == "place":
                yield from self._place(s, i, name, told)
            elif at == "void":
                yield from self._void(s, i, name)
            elif at == "voided":
                after = self._go(s, i, "end", order="D" if s.order in "PG" else s.order)
                yield Step.VOID, f"{name}: nothing is held at the bank, and the ledger knows", after
        if s.row in "AE":
            if "R" in self.events and not (self.p.pins and s.order == "P"):
                lost = "KEPT PROMISE: the reservation of an order is released while its payment is under way"
                yield (
                    Step.RELEASE,
                    "the customer releases the reservation",
                    lost if s.order == "P" else s._replace(row="R"),
                )
            if s.row == "A" or "L" in self.events:
                lost = "KEPT PROMISE: the reservation of an order expires while its payment is under way"
                is_lost = s.order == "P" and s.row == "A"
                yield Step.EXPIRE, "the reservation expires", lost if is_lost else s._replace(row="X")
        if "S" in self.events and not s.is_short and s.row in "AE":
            yield Step.CONSUME, "a sale in hand takes the units", s._replace(is_short=True)

    @staticmethod
    def _go(s: Till, i: int, at: str, told: str = "", **changes: object) -> Till:
        return s._replace(actors=replaced(s.actors, i, (at, told)), **changes)  # type: ignore[arg-type]

    def _begins(self, s: Till, i: int, name: str) -> Iterator[Transition]:
        if self.p.order_first or s.order != "-":
            yield from self._pend(s, i, name, ("pay", ""))
        elif s.row in "AE":
            yield Step.LOOK_UP, f"{name}: the reservation is active", self._go(s, i, "pay")

    def _pend(self, s: Till, i: int, name: str, then: tuple[str, str]) -> Iterator[Transition]:
        if s.order == "P":
            yield Step.PEND, f"{name}: the order is stored already, goes on with it", self._go(s, i, *then)
        elif s.order != "-" or s.row not in "AE":
            yield Step.PEND, f"{name}: order {s.order}, reservation {s.row}: answered", self._go(s, i, "end")
        else:
            after = self._go(s, i, *then, order="P", row="E" if self.p.extends else s.row)
            yield Step.PEND, f"{name}: the order is stored, its reservation extended", after

    def _job_begins(self, s: Till, i: int, name: str) -> Iterator[Transition]:
        if s.order == "G":
            yield Step.LOOK_UP, f"{name}: finds an order that was given up", self._go(s, i, "void")
        elif s.order == "P":
            yield Step.LOOK_UP, f"{name}: finds a pending order", self._go(s, i, "pay")
            if not self.p.gives_up_before_voiding:
                yield Step.LOOK_UP, f"{name}: finds an order that hangs", self._go(s, i, "void")
            if s.row == "X":
                yield Step.GIVE_UP, f"{name}: gives an order up whose reservation is over", self._given_up(s, i)

    def _given_up(self, s: Till, i: int) -> Till:
        """The reservation stays as it is: active, it is the customer's until its deadline."""
        return self._go(s, i, "void", order="G")

    def _authorize(self, s: Till, i: int, name: str) -> Iterator[Transition]:
        key = i if self.keys > 1 else 0
        then = "place" if self.p.order_first or s.order != "-" else "store"
        if s.bank[key] != "-":
            told = "N" if s.bank[key] == "N" else "Y"  # a repeat is told what was told first
            yield Step.AUTHORIZE, f"{name}: the bank repeats its answer ({told})", self._go(s, i, then, told)
            return
        for told in "YN" if "N" in self.events else "Y":
            bank = s.bank[:key] + told + s.bank[key + 1 :]
            yield Step.AUTHORIZE, f"{name}: the bank answers {told}", self._go(s, i, then, told, bank=bank)

    def _place(self, s: Till, i: int, name: str, told: str) -> Iterator[Transition]:
        if s.order != "P":
            after = self._go(s, i, "void" if s.order == "G" else "end")
            yield Step.PLACE, f"{name}: the order is {s.order} already", after
        elif told == "Y" and s.row in "AE" and (self.keeps_short or not s.is_short):
            yield Step.PLACE, f"{name}: reservation confirmed, order open", self._go(s, i, "end", order="O", row="C")
        else:
            yield (
                Step.GIVE_UP,
                f"{name}: the order is given up (bank {told}, reservation {s.row})",
                self._given_up(s, i),
            )

    def _void(self, s: Till, i: int, name: str) -> Iterator[Transition]:
        if self.p.asks_before_voiding and "-" in s.bank:
            for told in "YN" if "N" in self.events else "Y":
                after = self._go(s, i, "void", bank=s.bank.replace("-", told))
                yield Step.AUTHORIZE, f"{name}: the bank, asked first, answers {told}", after
            return
        after = self._go(s, i, "voided", bank=s.bank.replace("Y", "V"))
        yield Step.VOID, f"{name}: the bank takes back what it holds under the key", after

    def broken(self, s: Till) -> str | None:
        """The rule that a state breaks; also what would be left if all died here and the job came at last."""
        if sum(letter in "YV" for letter in s.bank) > 1:
            return "EXACTLY ONCE: two authorizations for one order"
        if s.order == "O" and ("Y" not in s.bank or s.row != "C"):
            return f"KEPT PROMISE: an order is open with its reservation {s.row} and the bank at {s.bank}"
        if s.row == "C" and s.order != "O":
            return "CONSERVATION: units are confirmed for an order that is not placed"
        if s.order in "-D" and "Y" in s.bank:
            return "LEAK: the bank holds money for an order that nobody will place or void"
        return None
