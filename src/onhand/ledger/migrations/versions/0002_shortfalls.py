"""Whose promise possession broke."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Shortfalls of orders, and marks where reservations are short."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Forget them: `allocated` is again what orders were promised."""
    run_script(Path(__file__).with_suffix(".down.sql"))
