"""Alembic's entry: runs the revisions on the connection that onhand.ledger.migrate opened."""

from alembic import context

# One transaction a revision, so that a failing one leaves the database at the revision before it.
context.configure(connection=context.config.attributes["connection"], transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
