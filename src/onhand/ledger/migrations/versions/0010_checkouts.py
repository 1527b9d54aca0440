"""Checkouts that lock what they pay for."""

from pathlib import Path

from onhand.ledger.migrations.sql import run_script

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Carts and claims name the checkout that pays for them."""
    run_script(Path(__file__).with_suffix(".sql"))


def downgrade() -> None:
    """Refused while a checkout is under way, or where an order lost stock before it was placed: the older code knows neither."""
    run_script(Path(__file__).with_suffix(".down.sql"))
