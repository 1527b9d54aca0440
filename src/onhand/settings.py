"""What a command is pointed at, and what it says where that cannot be used."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from onhand.domain.lost_stock import POLICIES, LostStockPolicy

CAUSE_LENGTH_MAX = 200
"""Characters of a driver's error that a caller is told."""


class Unusable(Exception):
    """What a command was given cannot be worked with, and waiting does not help; the message says what does.

    The command line prints it in one line and exits with 1.
    """


class NoDevStackError(Unusable):
    """No dev stack runs in the folder."""


class DevAddresses(NamedTuple):
    """Where the servers of a dev stack are; `server` is onhand's own host:port, None where there is none."""

    postgres_dsn: str
    redis_url: str
    server: str | None


def read_dev_stack(folder: Path) -> DevAddresses:
    """The addresses of the dev stack that runs in `folder`; NoDevStackError if none does."""
    path = folder / "dev.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return DevAddresses(str(content["postgres_dsn"]), str(content["redis_url"]), content["server"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NoDevStackError(
            f"No dev stack runs in {folder}: start one with `onhand dev`, "
            "or give ONHAND_POSTGRES_DSN and ONHAND_REDIS_URL."
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise NoDevStackError(
            f"{path} is not what `onhand dev` writes: stop it, remove the file, start again."
        ) from error


class StripeAccount(NamedTuple):
    """How Stripe is reached: ONHAND_STRIPE_KEY, ONHAND_STRIPE_URL, ONHAND_STRIPE_WEBHOOK_SECRET."""

    key: str
    url: str
    webhook_secret: str


def stripe_account(environment: Mapping[str, str]) -> StripeAccount | None:
    """The retailer's account; None where no key is given."""
    key = environment.get("ONHAND_STRIPE_KEY", "")
    if not key:
        return None
    url = environment.get("ONHAND_STRIPE_URL", "https://api.stripe.com")
    return StripeAccount(key, url, environment.get("ONHAND_STRIPE_WEBHOOK_SECRET", ""))


LOST_STOCK_POLICY = "ONHAND_LOST_STOCK_POLICY"
"""What becomes of a paid order whose units went while its customer paid."""


def lost_stock_policy(environment: Mapping[str, str]) -> LostStockPolicy:
    """The retailer's choice; nothing is ordered if none is said. Raises Unusable."""
    said = environment.get(LOST_STOCK_POLICY, "").replace(" ", "").lower()
    if not said:
        return LostStockPolicy()
    if said not in POLICIES:
        raise Unusable(f"{LOST_STOCK_POLICY} is {said!r}; it must be one of {', '.join(map(repr, POLICIES))}.")
    return POLICIES[said]


def host_of(dsn: str) -> str:
    """Where a DSN leads, without its secrets."""
    parts = urlsplit(dsn)
    socket = next((v for k, _, v in (p.partition("=") for p in parts.query.split("&")) if k == "host"), "")
    return unquote(socket) or parts.netloc.rpartition("@")[2] or parts.path


def cause_of(error: BaseException) -> str:
    """What an error of a driver is, short enough for a refusal: its type, and what it says if it says anything."""
    name, text = type(error).__name__, str(error)
    return (f"{name}: {text}" if text else name)[:CAUSE_LENGTH_MAX]
