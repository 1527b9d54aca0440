"""What a store does with its stock: transfers to their end, advance notices, counts."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Columns that transfers need, and the tables of notices and counts."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Without them: movements stay, and say what happened."""
    run_script(Path(__file__).with_suffix(".down.sql"))
