"""What a cart may hold, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onhand.domain import money
from onhand.domain.errors import CartFull, QuantityTooLarge

MAX_CART_LINES = 200
MAX_QUANTITY = 1_000_000_000  # base units in one line


@dataclass(frozen=True)
class UnitPrice:
    """`amount_minor` buys `price_quantity` base units."""

    amount_minor: int
    price_quantity: int


@dataclass(frozen=True)
class CartLine:
    """A quantity of a sku, with its price in the cart's currency if there is one."""

    sku: str
    quantity: int
    price: UnitPrice | None

    @property
    def total_minor(self) -> int | None:
        """What the line costs; None if it has no price. Raises `AmountTooLarge`."""
        if self.price is None:
            return None
        return money.line_total(self.price.amount_minor, self.price.price_quantity, self.quantity)


def total(lines: Iterable[CartLine]) -> int:
    """What all lines with a price cost together. Raises `AmountTooLarge`."""
    return money.checked(sum(line.total_minor or 0 for line in lines))


def unpriced(lines: Iterable[CartLine]) -> list[str]:
    """The skus that cannot be sold in the cart's currency."""
    return [line.sku for line in lines if line.price is None]


def check_line_count(cart_id: str, count: int) -> None:
    """Raises `CartFull` if a cart would have more lines than one may have."""
    if count > MAX_CART_LINES:
        raise CartFull(cart_id, count, MAX_CART_LINES)


def merged(cart_id: str, into: Mapping[str, int], added: Mapping[str, int]) -> dict[str, int]:
    """The quantities of a cart after those of another were added. Raises `CartFull`, `QuantityTooLarge`."""
    result = dict(into)
    for sku, quantity in added.items():
        result[sku] = result.get(sku, 0) + quantity
        if result[sku] > MAX_QUANTITY:
            raise QuantityTooLarge(sku, result[sku], MAX_QUANTITY)
    check_line_count(cart_id, len(result))
    return result
