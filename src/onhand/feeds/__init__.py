"""What comes in from outside: a real grocer's year of baskets, or a retailer's own files, written into the ledger."""
