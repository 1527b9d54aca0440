"""The use cases of the InventoryService: locations, stock, transfers, and what can be promised."""

from onhand.inventory.locations import Locations
from onhand.inventory.promise import Promise
from onhand.inventory.stock import Stock
from onhand.inventory.transfers import Transfers

__all__ = ["Locations", "Promise", "Stock", "Transfers"]
