"""onhand keeps one truth about a retailer's stock and runs every order against it."""

__version__ = "0.1.0"
