"""Authorizations that are renewed."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Operations that renew an authorization and free the one before, and when one ends."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Refused where an authorization was renewed: the older code would capture of the one that is freed."""
    run_script(Path(__file__).with_suffix(".down.sql"))
