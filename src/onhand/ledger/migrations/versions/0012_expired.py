"""Authorizations of returns whose end is told of."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """EXPIRED is stored, by the job that tells of it."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Their end is worked out from their time alone, as before."""
    run_script(Path(__file__).with_suffix(".down.sql"))
