"""The model of what is sold, and of carts. See model.py for how to read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any

from machine.model import QUANTITY_MAX, Fields, Inventory, Refused, given_id, invalid, must_have_etag, new_etag

Money = tuple[int, str]
"""(minor units, currency)"""
CURRENCIES = ("USD", "JPY")


def rounded(share: Fraction) -> int:
    """Half a minor unit rounded up."""
    return floor(share + Fraction(1, 2))


def check_digit(digits: str) -> int:
    """What makes the weighted sum of a GTIN a multiple of ten."""
    return -sum(int(d) * (3 if n % 2 == 0 else 1) for n, d in enumerate(reversed(digits))) % 10


def gtin14(gtin: str, name: str) -> str:
    """A barcode as it is kept."""
    if len(gtin) not in (8, 12, 13, 14) or check_digit(gtin[:-1]) != int(gtin[-1]):
        raise Refused("BARCODE_INVALID", gtin=gtin, field=name)
    return gtin.rjust(14, "0")


@dataclass
class Product:
    """What is sold."""

    name: str
    brand: str
    etag: str
    gtins: list[str] = field(default_factory=list)


@dataclass
class Cart:
    """What somebody means to buy; lines in the order in which they were added."""

    customer_id: str
    channel: str
    currency: str
    etag: str
    lines: dict[str, int] = field(default_factory=dict)
    state: str = "OPEN"
    order_id: str = ""
    merged_into: str = ""


class Shop(Inventory):
    """Products, prices, carts."""

    def __init__(self) -> None:
        super().__init__()
        self.products: dict[str, Product] = {}
        self.prices: dict[tuple[str, str], tuple[int, int]] = {}
        self.carts: dict[str, Cart] = {}

    # -------------------------------------------------------------------------------------------------------- catalog
    def product(self, sku: str) -> Fields:
        """Product."""
        return {"sku": sku} | vars(self.products[sku])

    def create_product(self, given: Any, product: Fields) -> Fields:
        """Adds one."""
        sku = product["sku"]
        if not product["name"]:
            raise invalid("product.name")
        if sku in self.products:
            raise Refused("PRODUCT_EXISTS", sku=sku)
        self.products[sku] = Product(product["name"], product["brand"], given_id(given, "product", "etag"))
        self.skus.add(sku)
        return {"product": self.product(sku)}

    def update_product(self, given: Any, product: Fields, update_mask: list[str]) -> Fields:
        """Changes the fields in the mask."""
        sku = product["sku"]
        if "name" in update_mask and not product["name"]:
            raise invalid("product.name")
        self.must_know_sku([sku])
        known = self.products[sku]
        must_have_etag(f"product {sku}", product["etag"], known.etag)
        for path in update_mask:
            setattr(known, path, product[path])
        known.etag = new_etag(known.etag, given_id(given, "product", "etag"))
        return {"product": self.product(sku)}

    def set_barcodes(self, given: Any, sku: str, gtins: list[str], etag: str) -> Fields:
        """Exactly these name it."""
        wanted = sorted({gtin14(gtin, f"gtins[{n}]") for n, gtin in enumerate(gtins)})
        self.must_know_sku([sku])
        known = self.products[sku]
        must_have_etag(f"product {sku}", etag, known.etag)
        for gtin in wanted:
            for other, product in self.products.items():
                if other != sku and gtin in product.gtins:
                    raise Refused("BARCODE_TAKEN", gtin=gtin, sku=other)
        known.gtins, known.etag = wanted, new_etag(known.etag, given_id(given, "product", "etag"))
        return {"product": self.product(sku)}

    def set_price(self, given: Any, sku: str, amount: Money, price_quantity: int) -> Fields:
        """From now on."""
        self.must_know_sku([sku])
        self.prices[sku, amount[1]] = amount[0], price_quantity or 1
        return {"price": {"sku": sku, "amount": amount, "price_quantity": price_quantity or 1}}

    def cost(self, sku: str, quantity: int, currency: str) -> int:
        """What a quantity costs."""
        if (sku, currency) not in self.prices:
            raise Refused("PRICE_NOT_FOUND", sku=sku, currency=currency)
        amount, per = self.prices[sku, currency]
        return rounded(Fraction(amount * quantity, per))

    # ---------------------------------------------------------------------------------------------------------- carts
    def create_cart(self, given: Any, customer_id: str, channel: str, currency_code: str) -> Fields:
        """A guest's new one, or the one that a customer has."""
        must_know_currency(currency_code)
        found = self.open_cart_of(customer_id)
        if found:
            if self.carts[found].currency != currency_code:
                raise Refused(
                    "CART_EXISTS", customer_id=customer_id, cart_id=found, currency=self.carts[found].currency
                )
            return {"cart": self.cart(found), "is_existing": True}
        cart_id = given_id(given, "cart", "cart_id")
        self.carts[cart_id] = Cart(customer_id, channel, currency_code, given_id(given, "cart", "etag"))
        return {"cart": self.cart(cart_id), "is_existing": False}

    def open_cart_of(self, customer_id: str) -> str:
        """A customer has one at most."""
        found = [i for i, c in self.carts.items() if customer_id and c.customer_id == customer_id and c.state == "OPEN"]
        return found[0] if found else ""

    def cart(self, cart_id: str) -> Fields:
        """Cart, with current prices while it is open."""
        cart = self.carts[cart_id]
        shown: Fields = {
            "cart_id": cart_id,
            "customer_id": cart.customer_id,
            "channel": cart.channel,
            "currency_code": cart.currency,
            "state": cart.state,
            "order_id": cart.order_id,
            "merged_into_cart_id": cart.merged_into,
            "etag": cart.etag,
            "lines": [{"sku": sku, "quantity": n} for sku, n in cart.lines.items()],
            "total": None,
            "unpriced_skus": [],
        }
        total, unpriced = 0, []
        for line in shown["lines"]:
            price = self.prices.get((line["sku"], cart.currency)) if cart.state == "OPEN" else None
            line |= {"amount": None, "price_quantity": 0, "total": None}
            if price is None:
                unpriced.append(line["sku"])
                continue
            cost = self.cost(line["sku"], line["quantity"], cart.currency)
            line |= {"amount": (price[0], cart.currency), "price_quantity": price[1], "total": (cost, cart.currency)}
            total += cost
        if cart.state == "OPEN":
            shown |= {"total": (total, cart.currency), "unpriced_skus": unpriced}
        return shown

    def must_be_open(self, cart_id: str) -> Cart:
        """Only an open cart can be changed, claimed or ordered."""
        if cart_id not in self.carts:
            raise Refused("CART_NOT_FOUND", cart_id=cart_id)
        cart = self.carts[cart_id]
        if cart.state != "OPEN":
            successor = f"order {cart.order_id}" if cart.order_id else f"cart {cart.merged_into}"
            became = {"order_id": cart.order_id} if cart.order_id else {}
            raise Refused("CART_NOT_OPEN", cart_id=cart_id, state=cart.state, successor=successor, **became)
        return cart

    def add_cart_line(self, given: Any, cart_id: str, line: Fields) -> Fields:
        """More of a sku."""
        cart, sku = self.must_be_open(cart_id), line["sku"]
        self.must_know_sku([sku])
        quantity = cart.lines.get(sku, 0) + line["quantity"]
        if quantity > QUANTITY_MAX:
            raise Refused("QUANTITY_TOO_LARGE", sku=sku, quantity=quantity, quantity_max=QUANTITY_MAX)
        cart.lines[sku] = quantity
        cart.etag = new_etag(cart.etag, given_id(given, "cart", "etag"))
        return {"cart": self.cart(cart_id)}

    def set_cart_line(self, given: Any, cart_id: str, sku: str, quantity: int, etag: str) -> Fields:
        """So many of a sku; 0: none."""
        cart = self.must_be_open(cart_id)
        must_have_etag(f"cart {cart_id}", etag, cart.etag)
        if quantity:
            self.must_know_sku([sku])
            cart.lines[sku] = quantity
        else:
            cart.lines.pop(sku, None)
        cart.etag = new_etag(cart.etag, given_id(given, "cart", "etag"))
        return {"cart": self.cart(cart_id)}

    def claim_cart(self, given: Any, cart_id: str, customer_id: str) -> Fields:
        """A guest's cart becomes the customer's, or part of the customer's open one."""
        cart = self.must_be_open(cart_id)
        if cart.customer_id == customer_id:
            return {"cart": self.cart(cart_id)}
        if cart.customer_id:
            raise Refused("CART_OF_ANOTHER_CUSTOMER", cart_id=cart_id)
        target_id = self.open_cart_of(customer_id)
        if not target_id:
            cart.customer_id, cart.etag = customer_id, new_etag(cart.etag, given_id(given, "cart", "etag"))
            return {"cart": self.cart(cart_id)}
        target = self.carts[target_id]
        if target.currency != cart.currency:
            raise Refused("CURRENCY_MISMATCH", expected=target.currency, given=cart.currency)
        merged = {sku: target.lines.get(sku, 0) + n for sku, n in sorted(cart.lines.items())}
        for sku, quantity in merged.items():
            if quantity > QUANTITY_MAX:
                raise Refused("QUANTITY_TOO_LARGE", sku=sku, quantity=quantity, quantity_max=QUANTITY_MAX)
        target.lines |= merged
        target.etag = new_etag(target.etag, given_id(given, "cart", "etag"))
        cart.state, cart.merged_into, cart.etag = "MERGED", target_id, "closed"
        return {"cart": self.cart(target_id)}


def must_know_currency(currency: str) -> None:
    """A currency of ISO 4217."""
    if currency not in CURRENCIES:
        raise Refused("CURRENCY_UNKNOWN", currency=currency)
