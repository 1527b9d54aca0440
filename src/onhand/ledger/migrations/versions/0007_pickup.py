"""The whole life of a fulfillment order."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rejections, take-overs, no-shows, parcels of their own, substitutes."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Refused by the constraints of before where anything of it was used: the older code could not read it."""
    run_script(Path(__file__).with_suffix(".down.sql"))
