"""Prices that were."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Every price that was set, from now on."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Nobody knows any more what a price was before."""
    run_script(Path(__file__).with_suffix(".down.sql"))
