"""Sourcing wired into orders."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The reasons for who brings an order, and the day that work counts for."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """The reasons are lost."""
    run_script(Path(__file__).with_suffix(".down.sql"))
