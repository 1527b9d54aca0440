"""The commands. Each imports what it needs when it runs, so that `--help` is quick and the server stays slim."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from onhand.settings import NoDevStackError, Settings, read_dev_stack

log = logging.getLogger("onhand")

app = typer.Typer(
    help="One truth about a retailer's stock, and the orders that run against it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Result = TypeVar("Result")

SAMPLE_WEEKS = "1-4"

Dsn = Annotated[str | None, typer.Option("--postgres", help="PostgreSQL DSN; the running dev stack's if left out.")]
Url = Annotated[str | None, typer.Option("--redis", help="Redis/Valkey URL; the running dev stack's if left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Weeks = Annotated[str, typer.Option("--weeks", help="Weeks A-B of the real data, 1-1 to 53-53.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides everything that is drawn.")]
ProcessCount = Annotated[int, typer.Option("--processes", min=1, max=64, help="How many processes.")]
Data = Annotated[Path, typer.Option("--data", help="Folder of the dev stack's data.")]
DATA = Path(".onhand")


@app.callback()
def _prepare(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("asyncio", "alembic", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _fail(message: str) -> NoReturn:
    typer.echo(f"onhand: {message}", err=True)
    raise typer.Exit(1)


def _addresses(postgres: str | None, redis: str | None, data: Path = DATA) -> tuple[str, str]:
    settings = Settings()
    dsn, url = postgres or settings.postgres_dsn, redis or settings.redis_url
    if dsn is None or url is None:
        try:
            dev_dsn, dev_url = read_dev_stack(data)
        except NoDevStackError as error:
            _fail(str(error))
        return dsn or dev_dsn, url or dev_url
    return dsn, url


def _run(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _print(report: dict[str, Any], is_json: bool) -> None:
    typer.echo(json.dumps(report) if is_json else json.dumps(report, indent=2))


# -------------------------------------------------------------------------------------------------------------- servers
@app.command()
def migrate(postgres: Dsn = None) -> None:
    """Bring the ledger's tables up to date."""
    from onhand.ledger.migrate import current_revision, head_revision
    from onhand.ledger.migrate import migrate as migrate_ledger

    dsn, _ = _addresses(postgres, "-")
    before = current_revision(dsn)
    migrate_ledger(dsn)
    typer.echo(f"ledger: {before or 'empty'} -> {head_revision()}")


@app.command()
def serve(
    processes: Annotated[int | None, typer.Option("--processes", min=1, max=256, help="Server processes.")] = None,
    host: Annotated[str | None, typer.Option("--host")] = None,
    port: Annotated[int | None, typer.Option("--port", help="0 chooses a free one.")] = None,
    postgres: Dsn = None,
    redis: Url = None,
) -> None:
    """Serve gRPC from given databases (ONHAND_POSTGRES_DSN, ONHAND_REDIS_URL)."""
    from onhand import serve as servers

    settings = Settings()
    dsn, url = _addresses(postgres, redis)
    where = host or settings.host
    wanted = settings.port if port is None else port
    count = processes or settings.processes
    if "ONHAND_PORT_IS_SHARED" in os.environ:
        _run(lambda: _serve_here(dsn, url, where, wanted))
        return
    try:
        held = servers.reserve_port(where, wanted)
    except servers.PortTakenError as error:
        _fail(str(error))
    actual = held.getsockname()[1]
    if count == 1:
        _run(lambda: _serve_here(dsn, url, where, actual))
        return
    children = servers.server_processes(postgres_dsn=dsn, redis_url=url, host=where, port=actual, count=count)
    try:
        _run(lambda: servers.until_stopped(children.check))
    except RuntimeError as error:
        _fail(str(error))
    finally:
        children.stop()


async def _serve_here(dsn: str, url: str, host: str, port: int) -> None:
    from onhand.app import App
    from onhand.domain.errors import GateUnavailable, LedgerUnavailable
    from onhand.serve import check_parent, until_stopped

    try:
        application = await App.open(dsn, url)
    except (GateUnavailable, LedgerUnavailable) as error:
        _fail(error.detail)
    try:
        server = application.server()
        application.start_loops()
        actual = await server.start(f"{host}:{port}")
        log.info("serving on %s:%d, pid %d", host, actual, os.getpid())
        await until_stopped(check_parent)
        log.info("draining")
        await server.stop()
    finally:
        await application.close()


@app.command()
def dev(
    data: Data = DATA,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port.")] = 50051,
    processes: ProcessCount = 1,
    sample: Annotated[bool, typer.Option(help="Load sample data at the first start.")] = True,
) -> None:
    """Start everything on this machine: PostgreSQL, Valkey, sample data, server. Ctrl-C stops all of it."""
    from onhand import serve as servers
    from onhand.dev.stack import DevStack, StackError
    from onhand.ledger.migrate import migrate as migrate_ledger

    began = time.monotonic()
    try:
        held = servers.reserve_port(host, port)
    except servers.PortTakenError as error:
        _fail(str(error))
    try:
        stack = DevStack(data)
        stack.start()
    except StackError as error:
        _fail(str(error))
    try:
        migrate_ledger(stack.postgres_dsn)
        if sample:
            _load_sample(stack.postgres_dsn)
        address = f"{host}:{held.getsockname()[1]}"
        children = servers.server_processes(
            postgres_dsn=stack.postgres_dsn,
            redis_url=stack.redis_url,
            host=host,
            port=held.getsockname()[1],
            count=processes,
        )
        try:
            _run(lambda: _watch_dev(children, address, stack.postgres_dsn, began))
        except RuntimeError as error:
            _fail(str(error))
        finally:
            typer.echo("stopping; the data stays in " + str(data), err=True)
            children.stop()
    finally:
        stack.stop()


def _load_sample(dsn: str) -> None:
    from onhand.dev.sample import is_empty
    from onhand.feeds.run import progress_bars, run_import

    if not _run(lambda: is_empty(dsn)):
        return
    typer.echo("loading sample data: four weeks of a real grocer", err=True)
    with progress_bars() as progress:
        _run(lambda: run_import(dsn, "completejourney", SAMPLE_WEEKS, progress))


async def _watch_dev(children: Any, address: str, dsn: str, began: float) -> None:
    from onhand.dev.sample import things_to_try, wait_until_serving
    from onhand.serve import until_stopped

    async def announce() -> None:
        await wait_until_serving(address)
        typer.echo(await things_to_try(dsn, address, time.monotonic() - began), err=True)

    announcing = asyncio.create_task(announce())
    try:
        await until_stopped(children.check)
    finally:
        announcing.cancel()
        await asyncio.gather(announcing, return_exceptions=True)


# ----------------------------------------------------------------------------------------------------------- data, truth
@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="A folder of CSV files, or `completejourney`.")],
    weeks: Annotated[str | None, typer.Option("--weeks", help="Weeks A-B of completejourney.")] = None,
    stock: Annotated[bool, typer.Option(help="Load opening stock; --no-stock leaves stock alone.")] = True,
    postgres: Dsn = None,
    json_: Json = False,
) -> None:
    """Load locations, products, prices and opening stock."""
    from onhand.feeds.records import FeedError
    from onhand.feeds.run import progress_bars, run_import

    dsn, _ = _addresses(postgres, "-")
    try:
        with progress_bars() as progress:
            report = _run(lambda: run_import(dsn, source, weeks, progress, with_stock=stock))
    except FeedError as error:
        if json_:
            _print({"ok": False, "error": str(error)}, True)
        _fail(str(error))
    _print(report.as_json(), json_)


@app.command()
def verify(postgres: Dsn = None, redis: Url = None, data: Data = DATA, json_: Json = False) -> None:
    """Check every invariant of ledger and gate; exit 1, with the evidence, where one fails."""
    from onhand.domain.errors import Refusal
    from onhand.verify import verify as verify_all

    dsn, url = _addresses(postgres, redis, data)
    try:
        report = _run(lambda: verify_all(dsn, url, _progress_line))
    except Refusal as error:
        _fail(str(error))
    _finish(report.to_json(), json_)


def _progress_line(text: str) -> None:
    log.info("%s", text)


# ---------------------------------------------------------------------------------------------------------------- trials
@app.command()
def replay(
    weeks: Weeks = "2-2",
    processes: ProcessCount = 2,
    seed: Seed = 1,
    target: Annotated[str, typer.Option(help="host:port of the server.")] = "127.0.0.1:50051",
    run_id: Annotated[str | None, typer.Option(help="Goes on with an interrupted run of this id.")] = None,
    postgres: Dsn = None,
    redis: Url = None,
    data: Data = DATA,
    json_: Json = False,
) -> None:
    """Play real baskets against a running server, over gRPC, and audit what came of them."""
    from onhand import trials
    from onhand.feeds.records import FeedError
    from onhand.simulate.calls import GaveUp
    from onhand.simulate.processes import ProcessFailed

    settings = Settings()
    is_near = bool(postgres or settings.postgres_dsn or (data / "dev.json").exists())
    try:
        with trials.progress_bar(f"baskets of weeks {weeks}") as progress:
            report = trials.replay(
                weeks,
                target=target,
                processes=processes,
                seed=seed,
                run_id=run_id,
                addresses=(lambda: _addresses(postgres, redis, data)) if is_near else None,
                progress=progress,
            )
    except (FeedError, GaveUp, ProcessFailed) as error:
        _fail(str(error))
    _finish(report, json_)


@app.command()
def simulate(
    buyers: Annotated[int, typer.Option(min=1, help="Concurrent buyers of one unit each.")] = 200,
    stock: Annotated[int, typer.Option(min=0, help="Units there are.")] = 50,
    processes: ProcessCount = 2,
    seed: Seed = 1,
    target: Annotated[str | None, typer.Option(help="host:port; a stack of its own if left out.")] = None,
    json_: Json = False,
) -> None:
    """Let a crowd buy one sku at once, and audit: nothing is sold twice."""
    from onhand import trials
    from onhand.dev.stack import StackError
    from onhand.simulate.calls import GaveUp
    from onhand.simulate.processes import ProcessFailed

    try:
        with trials.progress_bar(f"{buyers} buyers of {stock} units") as progress:
            report = trials.simulate(
                buyers=buyers, stock=stock, processes=processes, seed=seed, target=target, progress=progress
            )
    except (GaveUp, ProcessFailed, StackError) as error:
        _fail(str(error))
    _finish(report, json_)


def _finish(report: dict[str, Any], is_json: bool) -> None:
    _print(report, is_json)
    if not report["ok"]:
        raise typer.Exit(1)


def main() -> None:
    """The command line."""
    app()


if __name__ == "__main__":
    main()
