"""The use cases of stock: locations, stock work, transfers, advance notices, counts, and what can be promised."""

from onhand.inventory.backorders import Backorders
from onhand.inventory.counts import Counts
from onhand.inventory.future import Future
from onhand.inventory.locations import Locations
from onhand.inventory.notices import Notices
from onhand.inventory.promise import Promise
from onhand.inventory.stock import Stock
from onhand.inventory.transfers import Transfers

__all__ = ["Backorders", "Counts", "Future", "Locations", "Notices", "Promise", "Stock", "Transfers"]
