"""What sourcing asks of locations."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Lead time, cut-off and daily capacity, and an index that counts a day's work."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """As before: what was set there is lost."""
    run_script(Path(__file__).with_suffix(".down.sql"))
