"""The executable specification of docs/architecture.md: the protocol between gate and ledger, searched exhaustively."""
