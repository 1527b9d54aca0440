"""Changes of orders that a gateway pays."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Checkouts say which order they change, and tenders which change they are to pay for."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Refused while a change is being paid for, or where one was refused: the older code would take its tender for the order's."""
    run_script(Path(__file__).with_suffix(".down.sql"))
