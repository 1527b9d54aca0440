"""A local server that answers as Stripe does: it knows idempotency keys, checks the shape of requests, and can misbehave.

In a trial it stands behind a proxy of each server, which makes its answers late, or loses them: then it has acted all the same.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from onhand.simulate.facts import GatewayRow

API_KEY = "sk_test_local"


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    method: str
    path: str
    key: str
    fields: dict[str, str]


@dataclass
class StripeServer:
    """What Stripe has. `faults` are for the next POSTs: see `_misbehave`."""

    url: str = ""
    received: list[Received] = field(default_factory=list)
    faults: deque[str] = field(default_factory=deque)
    intents: dict[str, dict[str, Any]] = field(default_factory=dict)
    refunds: dict[str, dict[str, Any]] = field(default_factory=dict)
    customers: dict[str, dict[str, Any]] = field(default_factory=dict)
    methods: dict[str, str] = field(default_factory=dict)
    """Payment methods that were used, and the customer that each was attached to, if any."""
    capture_before: int | None = None
    """What the card's network says of new authorizations."""
    wrong: list[str] = field(default_factory=list)
    """What a request lacked; Stripe itself would have refused it."""
    _answers: dict[str, tuple[dict[str, str], int, dict[str, Any]]] = field(default_factory=dict)

    def books(self) -> list[GatewayRow]:
        """What it did for each tender."""
        refunded: dict[str, int] = defaultdict(int)
        for refund in self.refunds.values():
            refunded[refund["payment_intent"]] += refund["amount"]
        return [
            GatewayRow(
                intent["metadata"]["order_id"],
                int(intent["metadata"]["tender_number"]),
                intent["amount"],
                intent["amount_received"],
                refunded[id],
                intent["amount_capturable"],
            )
            for id, intent in self.intents.items()
        ]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while (head := await reader.readuntil(b"\r\n\r\n")).strip():
                lines = head.decode().split("\r\n")
                method, target, _ = lines[0].split(" ")
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines[1:] if line)}
                body = (await reader.readexactly(int(headers.get("content-length", 0)))).decode()
                path, _, query = target.partition("?")
                fields = dict(parse_qsl(body or query, keep_blank_values=True))
                request = Received(method, path, headers.get("idempotency-key", ""), fields)
                self.received.append(request)
                answer = self._answer(request, headers)
                if answer is None:
                    return
                status, value = answer
                encoded = json.dumps(value).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(encoded)}\r\n\r\n".encode()
                    + encoded
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # whoever asked is gone: what was done is done
        finally:
            writer.close()

    def _answer(self, request: Received, headers: dict[str, str]) -> tuple[int, dict[str, Any]] | None:
        if headers.get("authorization") != f"Bearer {API_KEY}":
            return 401, _error("invalid_request_error", "api_key", "Invalid API Key")
        if request.method == "GET":
            return self._look(request)
        if not request.key:
            self.wrong.append(f"{request.path} without an idempotency key")
        if "stripe-version" not in headers:
            self.wrong.append(f"{request.path} without a version")
        fault = self.faults.popleft() if self.faults else ""
        if fault == "hang up before":
            return None
        if fault in ("500", "429", "409"):
            kind = {"500": "api_error", "429": "invalid_request_error", "409": "idempotency_error"}[fault]
            return int(fault), _error(kind, "idempotency_key_in_use" if fault == "409" else "lock_timeout", "try again")
        before = self._answers.get(request.key)
        if before is not None and before[0] != request.fields:
            self.wrong.append(f"key {request.key} came with other fields")
            return 400, _error(
                "idempotency_error", "", "Keys for idempotent requests can only be used with the same parameters"
            )
        status, value = before[1:] if before else self._do(request)
        self._answers[request.key] = request.fields, status, value
        return None if fault == "hang up after" else (status, value)

    def _look(self, request: Received) -> tuple[int, dict[str, Any]]:
        if request.path == "/v1/refunds":
            found = [r for r in self.refunds.values() if r["payment_intent"] == request.fields["payment_intent"]]
            return 200, {"object": "list", "data": found, "has_more": False, "url": "/v1/refunds"}
        intent = self.intents.get(request.path.removeprefix("/v1/payment_intents/"))
        if intent is None:
            return 404, _error("invalid_request_error", "resource_missing", "No such payment_intent")
        return 200, intent

    def _do(self, request: Received) -> tuple[int, dict[str, Any]]:
        fields, parts = request.fields, request.path.split("/")
        if request.path == "/v1/payment_intents":
            return self._authorize(fields)
        if request.path == "/v1/refunds":
            return self._refund(fields)
        if request.path == "/v1/customers":
            id = f"cus_{len(self.customers) + 1}"
            self.customers[id] = {"id": id, "object": "customer", "metadata": _metadata(fields)}
            return 200, self.customers[id]
        intent = self.intents[parts[3]]
        if parts[4] == "cancel":
            if intent["status"] != "requires_capture":
                return 400, _error("invalid_request_error", "payment_intent_unexpected_state", "cannot be canceled")
            intent |= {"status": "canceled", "amount_capturable": 0}
            return 200, dict(intent)
        amount = int(fields["amount_to_capture"])
        if intent["status"] != "requires_capture" or amount > intent["amount_capturable"]:
            return 400, _error("invalid_request_error", "amount_too_large", "more than can be captured")
        intent["metadata"] |= _metadata(fields)
        intent["amount_received"] += amount
        intent["amount_capturable"] -= amount
        intent["latest_charge"] = f"ch_{intent['id']}"
        if fields.get("final_capture") != "false":
            intent |= {"status": "succeeded", "amount_capturable": 0}
        return 200, dict(intent)

    def _authorize(self, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        expected = {
            "confirm": "true",
            "capture_method": "manual",
            "automatic_payment_methods[enabled]": "true",
            "automatic_payment_methods[allow_redirects]": "never",
        }
        # Nobody is there to act when an authorization is renewed.
        is_off_session = fields.get("off_session") == "true"
        expected |= {} if is_off_session else {"error_on_requires_action": "true"}
        customer, method = fields.get("customer", ""), fields["payment_method"]
        if customer and customer not in self.customers:
            return 400, _error("invalid_request_error", "resource_missing", "No such customer")
        if method in self.methods and (not customer or self.methods[method] != customer) and is_off_session:
            return 400, _error("invalid_request_error", "payment_method_unexpected_state", "not attached to it")
        if customer and not is_off_session and fields.get("setup_future_usage") != "off_session":
            self.wrong.append("a customer, and nothing is said of later use")
        self.wrong += [f"{k} is {fields.get(k)}" for k, v in expected.items() if fields.get(k) != v]
        self.wrong += [k for k in ("order_id", "tender_number", "operation_id") if f"metadata[{k}]" not in fields]
        if not fields["currency"].islower():
            self.wrong.append("the currency is in capitals")
        if fields["payment_method"] == "pm_declined" or (is_off_session and method == "pm_once"):
            return 402, {
                "error": {
                    "type": "card_error",
                    "code": "card_declined",
                    "decline_code": "insufficient_funds",
                    "message": "Your card has insufficient funds.",
                }
            }
        self.methods[method] = customer
        id = f"pi_{len(self.intents) + 1}"
        amount = int(fields["amount"])
        self.intents[id] = {
            "id": id,
            "object": "payment_intent",
            "status": {"pm_processing": "processing", "pm_action": "requires_action"}.get(
                fields["payment_method"], "requires_capture"
            ),
            "amount": amount,
            "amount_capturable": amount,
            "amount_received": 0,
            "currency": fields["currency"],
            "latest_charge": None,
            "customer": customer or None,
            "payment_method": method,
            "metadata": _metadata(fields),
        }
        if fields.get("expand[0]") != "latest_charge":
            self.wrong.append("the charge is not asked for")
        card = {"capture_before": self.capture_before} if self.capture_before else {}
        charge = {"id": f"ch_{id}", "object": "charge", "payment_method_details": {"type": "card", "card": card}}
        return 200, self.intents[id] | {"latest_charge": charge}

    def _refund(self, fields: dict[str, str]) -> tuple[int, dict[str, Any]]:
        intent = self.intents[fields["payment_intent"]]
        given_back = sum(r["amount"] for r in self.refunds.values() if r["payment_intent"] == intent["id"])
        if given_back + int(fields["amount"]) > intent["amount_received"]:
            return 400, _error("invalid_request_error", "charge_already_refunded", "more than was captured")
        id = f"re_{len(self.refunds) + 1}"
        self.refunds[id] = {
            "id": id,
            "object": "refund",
            "status": "pending" if "bank" in intent["metadata"] else "succeeded",
            "amount": int(fields["amount"]),
            "payment_intent": intent["id"],
            "metadata": _metadata(fields),
        }
        return 200, dict(self.refunds[id])


def _error(type: str, code: str, message: str) -> dict[str, Any]:
    return {"error": {"type": type, "code": code, "message": message}}


def _metadata(fields: dict[str, str]) -> dict[str, str]:
    return {k[9:-1]: v for k, v in fields.items() if k.startswith("metadata[")}


async def open_stripe() -> tuple[StripeServer, asyncio.Server]:
    """Serves on a free port of 127.0.0.1."""
    stripe = StripeServer()
    server = await asyncio.start_server(stripe.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    stripe.url = f"http://{host}:{port}"
    return stripe, server


@asynccontextmanager
async def stripe_server() -> AsyncIterator[StripeServer]:
    """As `open_stripe`; at the end every request had the shape that Stripe wants."""
    stripe, server = await open_stripe()
    async with server:
        yield stripe
    assert stripe.wrong == []
