"""The ledger's revisions, run by onhand.ledger.migrate."""
