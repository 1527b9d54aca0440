"""Whole SQL files as revisions."""

from pathlib import Path
from typing import Any

from alembic import op


def run_script(path: Path) -> None:
    """Run a file of many statements, functions with $$ bodies included, inside the revision's transaction."""
    script = path.read_text(encoding="utf-8")
    connection = op.get_bind()
    # SQLAlchemy sends BEGIN with the first statement it sees, and it does not see those of the script.
    connection.exec_driver_sql("SELECT 1")
    driver: Any = connection.connection.dbapi_connection

    # Without arguments asyncpg speaks the simple protocol, the only one that takes more than one statement.
    driver.run_async(lambda raw: raw.execute(script))
