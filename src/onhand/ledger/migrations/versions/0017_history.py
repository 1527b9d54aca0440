"""The history of an order, by its id."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Events and movements are found by the order that they are of, and events know their request."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Which request an event came with is forgotten."""
    run_script(Path(__file__).with_suffix(".down.sql"))
