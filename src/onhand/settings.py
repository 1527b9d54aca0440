"""What can be set from outside: environment variables named ONHAND_..."""

import json
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PROCESSES_MAX = 256


class Settings(BaseSettings):
    """The server's settings. Where an address is left out, commands look for the running dev stack."""

    model_config = SettingsConfigDict(env_prefix="ONHAND_", extra="ignore")

    # Not in the repr: both may carry a password.
    postgres_dsn: str | None = Field(default=None, repr=False)
    redis_url: str | None = Field(default=None, repr=False)
    host: str = "127.0.0.1"
    port: int = Field(default=50051, ge=0, le=65535)
    console_port: int = Field(default=8080, ge=0, le=65535)
    processes: int = Field(default=1, ge=1, le=PROCESSES_MAX)
    data_dir: Path = Path(".onhand")


class NoDevStackError(Exception):
    """No dev stack runs in the folder."""


def read_dev_stack(folder: Path) -> tuple[str, str]:
    """The addresses (PostgreSQL's, Redis') of the dev stack that runs in `folder`; NoDevStackError if none does."""
    path = folder / "dev.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return str(content["postgres_dsn"]), str(content["redis_url"])
    except FileNotFoundError as error:
        raise NoDevStackError(
            f"No dev stack runs in {folder}: start one with `onhand dev`, "
            "or give ONHAND_POSTGRES_DSN and ONHAND_REDIS_URL."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise NoDevStackError(
            f"{path} is not what `onhand dev` writes: stop it, remove the file, start again."
        ) from error
