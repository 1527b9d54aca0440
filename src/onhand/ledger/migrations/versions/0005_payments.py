"""Money as a ledger of its own."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Sums on tenders, operations and their outcomes, gift cards."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Tenders are again what was said of them, and nothing else."""
    run_script(Path(__file__).with_suffix(".down.sql"))
