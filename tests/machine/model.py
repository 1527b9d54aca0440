"""What onhand must answer, in plain Python: no gate, no ledger, no server, no clock.

One method for each rpc that changes something, of its name, with its request's fields (messages as dicts, enums by their bare
names, Money as (minor units, currency)); it returns the fields of the answer that follow from what was done before, or raises
Refused and has changed nothing. `given` is the answer that onhand gave, for what only onhand can choose: ids, codes, times,
etags. It is None where onhand refused. The rules are those of the design (sections 2 to 5) and of the protos' comments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from machine.shortfall_model import Shortfalls

CHANNELS = ("WEB", "APP", "POS", "PHONE", "SOCIAL", "MARKETPLACE")
SHELF = ("AVAILABLE", "ALLOCATED", "DAMAGED", "QUARANTINE")
"""The buckets inside a location."""
QUANTITY_MAX = 1_000_000_000

Fields = dict[str, Any]
Lines = Sequence[Mapping[str, Any]]


class Refused(Exception):
    """The reason that is due, and every value that goes with it. Of GATE_UNAVAILABLE only the reason is foreseen."""

    def __init__(self, reason: str, /, **values: Any) -> None:
        super().__init__(reason, values)
        self.reason = reason
        self.values = values


def invalid(*fields: str) -> Refused:
    """An INVALID_REQUEST that names these fields."""
    return Refused("INVALID_REQUEST", fields=sorted(fields))


def given_id(given: Any, *path: Any) -> Any:
    """What onhand chose, found in its answer; '?' where it refused."""
    for step in path:
        if given is None:
            return "?"
        given = given[step]
    return given


def summed(lines: Lines) -> dict[str, int]:
    """Quantities by sku, in order of sku."""
    total: dict[str, int] = defaultdict(int)
    for line in lines:
        total[line["sku"]] += line["quantity"]
    return dict(sorted(total.items()))


@dataclass
class Shelf:
    """What a location has of a sku."""

    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SHELF, 0))
    safety_stock: int = 0

    @property
    def on_hand(self) -> int:
        """What a person can count."""
        return sum(self.held.values())


@dataclass
class Place:
    """A location. A deleted one is only remembered, for its id is never used again."""

    kind: str
    name: str
    offers_pickup: bool
    offers_shipping: bool
    etag: str
    is_deleted: bool = False


@dataclass
class Reservation:
    """A basket that is held until its deadline."""

    channel: str
    customer_id: str
    baskets: dict[str, dict[str, int]]
    expire_time: float
    made: int
    """The younger, the greater; a change makes it young again."""
    state: str = "ACTIVE"
    order_id: str = ""


class Inventory(Shortfalls):
    """Locations, stock, reservations, policies."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self.is_gate_reached = True
        """Whether the server that is asked next reaches the gate: without it nothing new is promised, facts go on."""
        self.places: dict[str, Place] = {}
        self.groups: dict[str, list[str]] = {}
        self.skus: set[str] = set()
        self.shelves: dict[tuple[str, str], Shelf] = defaultdict(Shelf)
        self.thresholds: dict[tuple[str, str], int] = {}
        self.reservations: dict[str, Reservation] = {}
        self.transfers: dict[str, Any] = {}
        self.movements: dict[str, list[Fields]] = defaultdict(list)
        self.count_tasks: dict[str, dict[str, Fields]] = defaultdict(dict)

    # ------------------------------------------------------------------------------------------ what must always hold
    def reserved(self, place: str, sku: str) -> int:
        """What active reservations hold of a position."""
        active = (r for r in self.reservations.values() if r.state == "ACTIVE")
        return sum(r.baskets.get(place, {}).get(sku, 0) for r in active)

    def unreserved(self, place: str, sku: str) -> int:
        """available - active reservations. Below 0 where goods in somebody's hand were promised to others."""
        return self.shelves[place, sku].held["AVAILABLE"] - self.reserved(place, sku)

    def kept(self, place: str, sku: str, channel: str) -> int:
        """What is kept from a channel: nothing from the till."""
        if channel == "POS":
            return 0
        return self.shelves[place, sku].safety_stock + self.thresholds.get((channel, sku), 0)

    def available_to_promise(self, place: str, sku: str, channel: str) -> int:
        """As it is shown."""
        return max(0, self.unreserved(place, sku) - self.kept(place, sku, channel))

    def level(self, place: str, sku: str) -> Fields:
        """StockLevel."""
        held = self.shelves[place, sku].held
        return {"location_id": place, "sku": sku} | {bucket.lower(): held[bucket] for bucket in SHELF}

    def inbound(self, place: str, sku: str) -> int:
        """What transfers bring."""
        return 0

    def open_transfers(self, place: str) -> int:
        """Transfers from or to a location of which somebody still has to do something."""
        return 0

    def position(self, place: str, sku: str) -> Fields:
        """StockPosition."""
        shelf = self.shelves[place, sku]
        return self.level(place, sku) | {
            "on_hand": shelf.on_hand,
            "reserved": self.reserved(place, sku),
            "safety_stock": shelf.safety_stock,
            "inbound": self.inbound(place, sku),
            "short_quantity": sum(s.left for s in self.short_at(place, sku)),
            "channels": [
                {
                    "channel": channel,
                    "channel_threshold": self.thresholds.get((channel, sku), 0),
                    "available_to_promise": self.available_to_promise(place, sku, channel),
                }
                for channel in CHANNELS
            ],
        }

    def move(
        self,
        place: str,
        sku: str,
        quantity: int,
        origin: str,
        destination: str,
        why: str,
        document: str,
        channel: str = "",
    ) -> None:
        """A movement: no unit appears or vanishes without one."""
        if not quantity:
            return
        held = self.shelves[place, sku].held
        for bucket, change in ((origin, -quantity), (destination, quantity)):
            if bucket in SHELF:
                held[bucket] += change
                assert held[bucket] >= 0, f"the model took {quantity} of {sku} at {place} from an empty {origin}"
        self.movements[place].append(
            {
                "sku": sku,
                "quantity": quantity,
                "from_bucket": origin,
                "to_bucket": destination,
                "reason_code": why,
                "reference_document": document,
                "channel": channel or "UNSPECIFIED",
            }
        )

    # ---------------------------------------------------------------------------------------------- what is looked up
    def must_know_place(self, place: str) -> Place:
        """A location that is there."""
        if place not in self.places or self.places[place].is_deleted:
            raise Refused("LOCATION_NOT_FOUND", location_id=place)
        return self.places[place]

    def must_know_sku(self, skus: Iterable[str]) -> None:
        """Skus that are in the catalog; the first that is not is named."""
        for sku in sorted(skus):
            if sku not in self.skus:
                raise Refused("SKU_NOT_FOUND", sku=sku)

    def must_promise(
        self,
        baskets: Mapping[str, Mapping[str, int]],
        channel: str = "POS",
        freed: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        """Every line of every basket can be promised, or nothing is. Asks the gate. `freed` counts as free."""
        if not self.is_gate_reached:
            raise Refused("GATE_UNAVAILABLE")
        for place in sorted(baskets):
            self.must_know_place(place)
        shorts = []
        for place, lines in sorted(baskets.items()):
            for sku, quantity in sorted(lines.items()):
                room = self.unreserved(place, sku) - self.kept(place, sku, channel)
                room += (freed or {}).get(place, {}).get(sku, 0)
                if room < quantity:
                    shorts.append((place, sku, quantity, max(0, room)))
        self.must_know_sku(sku for _, sku, _, _ in shorts)
        if shorts:
            raise Refused("INSUFFICIENT_STOCK", shorts=shorts)

    # ------------------------------------------------------------------------------------------------------ locations
    def create_location(self, given: Any, location: Fields) -> Fields:
        """Adds one."""
        name = location["location_id"]
        if location["kind"] == "UNSPECIFIED":
            raise invalid("location.kind")
        if not location["name"]:
            raise invalid("location.name")
        if name in self.places:
            raise Refused("LOCATION_EXISTS", location_id=name)
        self.places[name] = Place(
            location["kind"],
            location["name"],
            location["offers_pickup"],
            location["offers_shipping"],
            given_id(given, "location", "etag"),
        )
        return {"location": self.location(name)}

    def location(self, name: str) -> Fields:
        """Location."""
        place = self.places[name]
        shown = {key: value for key, value in vars(place).items() if key != "is_deleted"}
        return {"location_id": name} | shown

    def update_location(self, given: Any, location: Fields, update_mask: list[str]) -> Fields:
        """Changes the fields in the mask."""
        name = location["location_id"]
        place = self.must_know_place(name)
        must_have_etag(f"location {name}", location["etag"], place.etag)
        if "name" in update_mask and not location["name"]:
            raise invalid("location.name")
        for path in update_mask:
            setattr(place, path, location[path])
        place.etag = new_etag(place.etag, given_id(given, "location", "etag"))
        return {"location": self.location(name)}

    def delete_location(self, given: Any, location_id: str) -> Fields:
        """Only one that holds nothing."""
        place = self.must_know_place(location_id)
        units = sum(shelf.on_hand for (where, _), shelf in self.shelves.items() if where == location_id)
        active = [r for r in self.reservations.values() if r.state == "ACTIVE" and location_id in r.baskets]
        on_way = self.open_transfers(location_id)
        works = self.open_works(location_id)
        if units or active or on_way or works:
            raise Refused(
                "LOCATION_IN_USE",
                location_id=location_id,
                units=units,
                reservations=len(active),
                open_fulfillment_orders=works,
                open_transfers=on_way,
                open_advance_notices=0,
                open_counts=0,
            )
        place.is_deleted = True
        for members in self.groups.values():
            if location_id in members:
                members.remove(location_id)
        return {}

    def open_works(self, place: str) -> int:
        """How many fulfillment orders a location has still to do."""
        return 0

    def set_location_group(self, given: Any, location_group_id: str, name: str, location_ids: list[str]) -> Fields:
        """Makes a group have exactly these members."""
        members = sorted(set(location_ids))
        for member in members:
            self.must_know_place(member)
        self.groups[location_group_id] = members
        return {"location_group": {"location_group_id": location_group_id, "name": name, "location_ids": members}}

    # ---------------------------------------------------------------------------------------------------------- stock
    def receive_stock(self, given: Any, location_id: str, lines: Lines, reference_document: str) -> Fields:
        """supplier -> available."""
        total = summed(lines)
        self.must_know_place(location_id)
        self.must_know_sku(total)
        for sku, quantity in total.items():
            self.move(location_id, sku, quantity, "SUPPLIER", "AVAILABLE", "RECEIPT", reference_document)
        self.cover({(location_id, sku): n for sku, n in total.items()}, "RECEIPT", reference_document)
        return {"levels": [self.level(location_id, sku) for sku in total]}

    def adjust_stock(
        self,
        given: Any,
        location_id: str,
        sku: str,
        bucket: str,
        quantity: int,
        reason_code: str,
        reference_document: str,
    ) -> Fields:
        """adjustment <-> a bucket. Taking from `available` must break no promise."""
        bucket = "AVAILABLE" if bucket == "UNSPECIFIED" else bucket
        if bucket not in ("AVAILABLE", "DAMAGED", "QUARANTINE"):
            raise invalid("bucket")
        if quantity > 0:
            self.must_know_place(location_id)
            self.must_know_sku([sku])
            self.move(location_id, sku, quantity, "ADJUSTMENT", bucket, reason_code, reference_document)
            if bucket == "AVAILABLE":
                self.cover({(location_id, sku): quantity}, reason_code, reference_document)
        else:
            self._take(location_id, sku, -quantity, bucket, "ADJUSTMENT", reason_code, reference_document)
        return {"level": self.level(location_id, sku)}

    def move_stock(
        self,
        given: Any,
        location_id: str,
        sku: str,
        quantity: int,
        from_bucket: str,
        to_bucket: str,
        reason_code: str,
        reference_document: str,
    ) -> Fields:
        """From one bucket to another."""
        for name, bucket in (("from_bucket", from_bucket), ("to_bucket", to_bucket)):
            if bucket not in ("AVAILABLE", "DAMAGED", "QUARANTINE"):
                raise invalid(name)
        if from_bucket == to_bucket:
            raise invalid("to_bucket")
        self._take(location_id, sku, quantity, from_bucket, to_bucket, reason_code, reference_document)
        return {"level": self.level(location_id, sku)}

    def _take(
        self, place: str, sku: str, quantity: int, origin: str, destination: str, why: str, document: str
    ) -> None:
        """A decision: what is promised, or is not there, cannot be taken."""
        if origin == "AVAILABLE":
            self.must_promise({place: {sku: quantity}})
        self.must_know_place(place)
        self.must_know_sku([sku])
        held = self.shelves[place, sku].held[origin]
        if held < quantity:
            raise Refused(
                "BUCKET_SHORT", location_id=place, sku=sku, bucket=origin.lower(), requested=quantity, held=held
            )
        self.move(place, sku, quantity, origin, destination, why, document)
        if destination == "AVAILABLE":
            self.cover({(place, sku): quantity}, why, document)

    def count_stock(self, given: Any, location_id: str, lines: Lines, reference_document: str) -> Fields:
        """A fact, never refused: on_hand is what was counted. Missing is what is free, then promised, then damaged."""
        counted = {line["sku"]: line["counted_quantity"] for line in sorted(lines, key=lambda line: line["sku"])}
        if len(counted) < len(lines):
            raise invalid("lines")
        self.must_know_place(location_id)
        self.must_know_sku(counted)
        place, document = location_id, reference_document
        expected = {sku: self.shelves[place, sku].on_hand for sku in counted}
        broken, promised, grown = dict.fromkeys(counted, 0), dict.fromkeys(counted, 0), {}
        for sku, quantity in counted.items():
            if quantity > expected[sku]:
                grown[place, sku] = quantity - expected[sku]
                self.move(place, sku, quantity - expected[sku], "ADJUSTMENT", "AVAILABLE", "COUNT", document)
            missing = max(0, expected[sku] - quantity)
            for bucket in SHELF:
                taken = min(missing, self.shelves[place, sku].held[bucket])
                missing -= taken
                if bucket == "AVAILABLE":
                    broken[sku] += self.overdrawn(place, sku, taken)
                if bucket == "ALLOCATED":
                    promised[sku] = taken
                else:
                    self.move(place, sku, taken, bucket, "ADJUSTMENT", "COUNT", document)
        self.cover(grown, "COUNT", document)
        for sku in counted:
            broken[sku] += self.break_orders(place, sku, promised[sku], "COUNT", document)
            self.counted(place, sku)
            self.count_tasks[place].pop(sku, None)
        return {
            "results": [
                {
                    "level": self.level(place, sku),
                    "expected_quantity": expected[sku],
                    "variance_quantity": counted[sku] - expected[sku],
                    "short_quantity": broken[sku],
                }
                for sku in counted
            ]
        }

    def overdrawn(self, place: str, sku: str, quantity: int) -> int:
        """How many of the units that a fact takes were promised by reservations."""
        return min(quantity, max(0, quantity - self.unreserved(place, sku)))

    # ------------------------------------------------------------------------------------------------------ transfers

    # --------------------------------------------------------------------------------------------------- reservations
    def reserve(self, given: Any, channel: str, baskets: list[Fields], ttl_seconds: int, customer_id: str) -> Fields:
        """Every line at every location, or nothing."""
        wanted = by_place(baskets)
        self.must_promise(wanted, channel)
        reservation_id = given_id(given, "reservation", "reservation_id")
        self.made += 1
        self.reservations[reservation_id] = Reservation(
            channel, customer_id, wanted, given_id(given, "reservation", "expire_time"), self.made
        )
        return {"reservation": self.reservation(reservation_id)}

    def reservation(self, reservation_id: str) -> Fields:
        """Reservation."""
        r = self.reservations[reservation_id]
        return {
            "reservation_id": reservation_id,
            "state": r.state,
            "baskets": [
                {"location_id": place, "lines": [{"sku": sku, "quantity": n} for sku, n in sorted(lines.items())]}
                for place, lines in sorted(r.baskets.items())
            ],
            "channel": r.channel,
            "customer_id": r.customer_id,
            "expire_time": r.expire_time,
            "order_id": r.order_id,
        }

    def must_be_active(self, reservation_id: str) -> Reservation:
        """Only an active one can be changed, extended, released or ordered."""
        if reservation_id not in self.reservations:
            raise Refused("RESERVATION_NOT_FOUND", reservation_id=reservation_id)
        reservation = self.reservations[reservation_id]
        if reservation.state != "ACTIVE":
            became = {"order_id": reservation.order_id} if reservation.order_id else {}
            raise Refused("RESERVATION_NOT_ACTIVE", reservation_id=reservation_id, state=reservation.state, **became)
        return reservation

    def change_reservation(self, given: Any, reservation_id: str, baskets: list[Fields]) -> Fields:
        """Other lines: what is held counts as free for them."""
        wanted = by_place(baskets)
        reservation = self.must_be_active(reservation_id)
        self.must_promise(wanted, reservation.channel, freed=reservation.baskets)
        self.made += 1
        reservation.baskets, reservation.made = wanted, self.made
        return {"reservation": self.reservation(reservation_id)}

    def extend_reservation(self, given: Any, reservation_id: str, ttl_seconds: int) -> Fields:
        """A later deadline, never an earlier one."""
        reservation = self.must_be_active(reservation_id)
        deadline = given_id(given, "reservation", "expire_time")
        if deadline != "?":
            reservation.expire_time = max(deadline, reservation.expire_time)
        return {"reservation": self.reservation(reservation_id)}

    def release_reservation(self, given: Any, reservation_id: str) -> Fields:
        """Given back."""
        self.must_be_active(reservation_id).state = "RELEASED"
        return {"reservation": self.reservation(reservation_id)}

    def pass_deadline(self, reservation_id: str, expire_time: float) -> None:
        """No rpc: the deadline of an active reservation is over."""
        reservation = self.reservations[reservation_id]
        if reservation.state == "ACTIVE":
            reservation.state, reservation.expire_time = "EXPIRED", expire_time

    # ------------------------------------------------------------------------------------------------------- policies
    def set_stock_policy(self, given: Any, location_id: str, sku: str, safety_stock: int) -> Fields:
        """Units kept from online promise at one location."""
        self.must_know_place(location_id)
        self.must_know_sku([sku])
        self.shelves[location_id, sku].safety_stock = safety_stock
        return {}

    def set_channel_threshold(self, given: Any, channel: str, sku: str, quantity: int) -> Fields:
        """Units kept from one channel at every location."""
        if channel == "POS":
            raise invalid("channel")
        self.must_know_sku([sku])
        self.thresholds[channel, sku] = quantity
        return {}


def by_place(baskets: list[Fields]) -> dict[str, dict[str, int]]:
    """LocationBaskets as quantities; a location may be named once."""
    for n, basket in enumerate(baskets):
        if any(basket["location_id"] == other["location_id"] for other in baskets[:n]):
            raise invalid(f"baskets[{n}].location_id")
    return {basket["location_id"]: summed(basket["lines"]) for basket in baskets}


def must_have_etag(resource: str, given: str, current: str) -> None:
    """An etag, if given, must be the current one."""
    if given and given != current:
        raise Refused("ETAG_MISMATCH", resource=resource, etag=given, current_etag=current)


def new_etag(old: str, new: str) -> str:
    """Every change makes another."""
    assert new != old, f"the etag is still {old} after a change"
    return new
