"""Indexes for stores as large as they get."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Two indexes that pages and searches need, and one less that nothing reads."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """As before: everything is still there to be indexed."""
    run_script(Path(__file__).with_suffix(".down.sql"))
