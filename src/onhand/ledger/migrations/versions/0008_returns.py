"""Return anywhere."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Authorizations, blind returns, exchanges, overrides, signals."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Refused where anything but returns at a counter was made: the older code could not read it."""
    run_script(Path(__file__).with_suffix(".down.sql"))
