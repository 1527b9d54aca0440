"""Pickups that wait longer."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Since when a pickup waits: what an extension of its hold is bounded by."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Nobody knows any more since when pickups wait."""
    run_script(Path(__file__).with_suffix(".down.sql"))
