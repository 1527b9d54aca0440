"""The ledger."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create every table of the ledger."""
    run_script(Path(__file__).with_suffix(".sql"))
