"""Requests of transfers that are answered in parts."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Which transfer left out what another is to bring."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """The rests stay, as requests of which nobody knows where they come from."""
    run_script(Path(__file__).with_suffix(".down.sql"))
