"""Substitutes that customers accept or decline themselves."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What was offered, until when, what it would cost, and the answer."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Offers are forgotten. Refused where a customer accepted one."""
    run_script(Path(__file__).with_suffix(".down.sql"))
