"""The fast promise: the gate in Redis/Valkey that admits reservations, and its journal in the ledger."""
