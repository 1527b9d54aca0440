"""The commands. Each imports what it needs when it runs, so that `--help` is quick and the server stays slim."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TypeVar

import typer

from onhand import __version__
from onhand.settings import NoDevStackError, Unusable, read_dev_stack

if TYPE_CHECKING:
    from onhand.app import App
    from onhand.dev.stack import DevStack
    from onhand.domain.sourcing import Policy
    from onhand.serve import Processes
    from onhand.verify import Report

log = logging.getLogger("onhand")

app = typer.Typer(
    help="One truth about a retailer's stock, and the orders that run against it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Result = TypeVar("Result")

SAMPLE_WEEKS = "1-4"
DEV_CONNECT_PORT = 8081

Dsn = Annotated[
    str | None,
    typer.Option(
        "--postgres", envvar="ONHAND_POSTGRES_DSN", help="PostgreSQL DSN; the running dev stack's if left out."
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--redis", envvar="ONHAND_REDIS_URL", help="Redis/Valkey URL; the running dev stack's if left out."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Weeks = Annotated[str, typer.Option("--weeks", help="Weeks A-B of the real data, 1-1 to 53-53.")]
Seed = Annotated[int, typer.Option("--seed", help="Decides everything that is drawn.")]
ProcessCount = Annotated[int, typer.Option("--processes", min=1, max=64, help="How many processes.")]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        "--metrics-port",
        envvar="ONHAND_METRICS_PORT",
        min=0,
        max=65535,
        help="Serve Prometheus metrics of all processes here; 0 chooses a free port.",
    ),
]
ConnectPort = Annotated[
    int | None,
    typer.Option(
        "--connect-port",
        envvar="ONHAND_CONNECT_PORT",
        min=0,
        max=65535,
        help="Serve Connect (plain HTTP: protobuf, JSON) here too; 0 chooses a free port.",
    ),
]
ConnectOrigins = Annotated[
    list[str] | None,
    typer.Option(
        "--connect-origin",
        envvar="ONHAND_CONNECT_ORIGINS",
        help="Origin whose pages may call Connect from a browser, as https://shop.example; * for any. May be repeated.",
    ),
]
Data = Annotated[Path, typer.Option("--data", help="Folder of the dev stack's data.")]
DATA = Path(".onhand")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"onhand {__version__}")
        raise typer.Exit


@app.callback()
def _prepare(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    for noisy in ("asyncio", "alembic", "sqlalchemy"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Warns with a stack while the ledger does not answer, which whoever needs it says in a line.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)


def _fail(message: str) -> NoReturn:
    typer.echo(f"onhand: {message}", err=True)
    raise typer.Exit(1)


def _addresses(postgres: str | None, redis: str | None, data: Path) -> tuple[str, str]:
    if postgres and redis:
        return postgres, redis
    stack = read_dev_stack(data)
    return postgres or stack.postgres_dsn, redis or stack.redis_url


def _is_dev_server(target: str, data: Path) -> bool:
    """Whether `target` is where the dev stack in the folder serves."""
    try:
        server = read_dev_stack(data).server
    except NoDevStackError:
        return False
    return server is not None and not _sockets(server).isdisjoint(_sockets(target))


def _sockets(address: str) -> set[tuple[Any, ...]]:
    host, _, port = address.rpartition(":")
    try:
        return {entry[4] for entry in socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)}
    except OSError:
        return set()


def _run(main: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _print(report: dict[str, Any], is_json: bool) -> None:
    typer.echo(json.dumps(report) if is_json else json.dumps(report, indent=2))


# -------------------------------------------------------------------------------------------------------------- servers
@app.command()
def migrate(postgres: Dsn = None, data: Data = DATA) -> None:
    """Bring the ledger's tables up to date."""
    from onhand.domain.errors import LedgerUnavailable
    from onhand.ledger.migrate import current_revision, head_revision
    from onhand.ledger.migrate import migrate as migrate_ledger
    from onhand.postgres import not_answering

    dsn, _ = _addresses(postgres, "-", data)
    try:
        before = current_revision(dsn)
        migrate_ledger(dsn)
    except LedgerUnavailable as error:
        _fail(not_answering(dsn, error))
    typer.echo(f"ledger: {before or 'empty'} -> {head_revision()}")


@app.command()
def serve(
    processes: Annotated[
        int, typer.Option("--processes", envvar="ONHAND_PROCESSES", min=1, max=256, help="Server processes.")
    ] = 1,
    host: Annotated[str, typer.Option("--host", envvar="ONHAND_HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", envvar="ONHAND_PORT", min=0, max=65535, help="gRPC port; 0 chooses a free one.")
    ] = 50051,
    connect_port: ConnectPort = None,
    connect_origin: ConnectOrigins = None,
    metrics_port: MetricsPort = None,
    postgres: Dsn = None,
    redis: Url = None,
    data: Data = DATA,
    echo: Annotated[bool, typer.Option("--echo", hidden=True, help="Serve the bench's echo too.")] = False,
) -> None:
    """Serve gRPC, and Connect where it is asked for, from given databases."""
    from onhand import serve as servers
    from onhand.telemetry import exposed

    dsn, url = _addresses(postgres, redis, data)
    origins = connect_origin or []
    if "ONHAND_PORT_IS_SHARED" in os.environ:
        _run(lambda: _serve_here(dsn, url, host, port, connect_port, origins, has_echo=echo))
        return
    held = servers.reserve_port(host, port)
    actual = held.getsockname()[1]
    held_connect = None
    if connect_port is not None:
        held_connect = servers.reserve_port(host, connect_port, option="--connect-port")
        connect_port = held_connect.getsockname()[1]
    with exposed(host, metrics_port, is_alone=processes == 1) as metrics:
        if processes == 1:
            _run(lambda: _serve_here(dsn, url, host, actual, connect_port, origins, has_echo=echo))
            return
        # What would keep all of them from serving is found here, once.
        _run(lambda: _look(dsn, url))
        children = servers.server_processes(
            postgres_dsn=dsn,
            redis_url=url,
            host=host,
            port=actual,
            count=processes,
            metrics=metrics,
            options=(*_connect_options(connect_port, origins), *(("--echo",) if echo else ())),
        )
        try:
            _run(lambda: servers.until_stopped(children.check))
        finally:
            children.stop()


def _connect_options(port: int | None, origins: Sequence[str]) -> Sequence[str]:
    """What server processes are told of the second edge."""
    if port is None:
        return ()
    return ("--connect-port", str(port), *(word for origin in origins for word in ("--connect-origin", origin)))


async def _open(dsn: str, url: str) -> App:
    from onhand.app import App
    from onhand.domain.errors import GateUnavailable, LedgerUnavailable

    try:
        return await App.open(dsn, url, sourcing_policy=_sourcing_policy(None))
    except (GateUnavailable, LedgerUnavailable) as error:
        _fail(error.detail)


def _sourcing_policy(path: Path | None) -> Policy:
    """The policy of a file, of that which the environment names, or onhand's own."""
    from onhand.sourcing.policy_file import VARIABLE, load_policy

    named = os.environ.get(VARIABLE)
    return load_policy(path or (Path(named) if named else None))


async def _look(dsn: str, url: str) -> None:
    application = await _open(dsn, url)
    await application.close()


def _echo() -> Sequence[Any]:
    from onhand.bench.echo import handlers

    return (handlers(),)


async def _serve_here(
    dsn: str, url: str, host: str, port: int, connect_port: int | None, origins: Sequence[str], *, has_echo: bool
) -> None:
    from onhand import crash
    from onhand.serve import check_parent, collect_rarely, until_stopped

    application = await _open(dsn, url)
    try:
        with crash.armed(os.environ):
            server = application.server(_echo()) if has_echo else application.server()
            second = None if connect_port is None else application.second_edge(server, host, connect_port, origins)
            application.start_loops()
            if second is not None:
                await second.start()  # first: whoever waits for gRPC's health finds both
                log.info("serving Connect on %s:%d", host, second.port)
            actual = await server.start(f"{host}:{port}")
            log.info("serving on %s:%d, pid %d", host, actual, os.getpid())
            collect_rarely()

            def check() -> None:
                check_parent()
                if second is not None:
                    second.check()

            await until_stopped(check)
            log.info("draining")
            await server.stop()
            if second is not None:
                await second.stop()
    finally:
        await application.close()


@app.command()
def dev(
    data: Data = DATA,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="gRPC port; 0 chooses a free one.")] = 50051,
    connect_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port of Connect; 8081, or a free one where that is taken, if left out."),
    ] = None,
    connect_origin: ConnectOrigins = None,
    processes: ProcessCount = 1,
    metrics_port: MetricsPort = None,
    sample: Annotated[bool, typer.Option(help="Load sample data at the first start.")] = True,
) -> None:
    """Start everything on this machine: PostgreSQL, Valkey, sample data, server. Ctrl-C stops all of it."""
    from onhand import serve as servers
    from onhand.dev.stack import DevStack
    from onhand.ledger.migrate import migrate as migrate_ledger
    from onhand.telemetry import exposed

    # SIGTERM ends all of this in order, as Ctrl-C does, whatever is under way.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    try:
        held = servers.reserve_port(host, port)
    except servers.PortTakenError as error:
        _fail(f"{error} (make run ARGS='--port N')")
    actual = held.getsockname()[1]
    held_connect = _reserve_dev_connect(host, connect_port)
    connect_port = held_connect.getsockname()[1]
    with (
        DevStack(data, server=f"{host}:{actual}", connect=f"{host}:{connect_port}") as stack,
        exposed(host, metrics_port, is_alone=False) as metrics,
    ):
        migrate_ledger(stack.postgres_dsn)
        if sample:
            _load_sample(stack.postgres_dsn)
        children = servers.server_processes(
            postgres_dsn=stack.postgres_dsn,
            redis_url=stack.redis_url,
            host=host,
            port=actual,
            count=processes,
            metrics=metrics,
            options=_connect_options(connect_port, connect_origin or []),
        )
        try:
            _run(lambda: _watch_dev(stack, children, None if data == DATA else data, began))
        finally:
            # The event loop gave both signals back to their defaults; a second one must not end the stopping.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            typer.echo(f"stopping; the data stays in {data}", err=True)
            children.stop()


def _reserve_dev_connect(host: str, port: int | None) -> socket.socket:
    from onhand.serve import PortTakenError, reserve_port

    if port is not None:
        return reserve_port(host, port, option="--connect-port")
    try:
        return reserve_port(host, DEV_CONNECT_PORT)
    except PortTakenError:  # nobody asked for it
        return reserve_port(host, 0)


def _load_sample(dsn: str) -> None:
    from onhand.dev.sample import is_empty
    from onhand.feeds.run import run_import
    from onhand.progress import progress_bars

    if not _run(lambda: is_empty(dsn)):
        return
    typer.echo("loading sample data: four weeks of a real grocer", err=True)
    with progress_bars() as progress:
        _run(lambda: run_import(dsn, "completejourney", SAMPLE_WEEKS, progress))


async def _watch_dev(stack: DevStack, children: Processes, data: Path | None, began: float) -> None:
    from onhand.dev.sample import things_to_try, wait_until_serving
    from onhand.serve import until_stopped

    address, connect = stack.server, stack.connect
    assert address is not None
    assert connect is not None

    async def announce() -> None:
        await wait_until_serving(address)
        seconds = time.monotonic() - began
        typer.echo(await things_to_try(stack.postgres_dsn, address, connect, seconds, data), err=True)

    def check() -> None:
        stack.check()
        children.check()

    announcing = asyncio.create_task(announce())
    try:
        await until_stopped(check)
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
    data: Data = DATA,
    json_: Json = False,
) -> None:
    """Load locations, products, prices and opening stock."""
    from onhand.feeds.records import FeedError
    from onhand.feeds.run import run_import
    from onhand.progress import progress_bars

    dsn, _ = _addresses(postgres, "-", data)
    try:
        with progress_bars() as progress:
            report = _run(lambda: run_import(dsn, source, weeks, progress, with_stock=stock))
    except FeedError as error:
        if json_:
            _print({"ok": False, "error": str(error)}, True)
        _fail(str(error))
    _print(report.as_json(), json_)


@app.command()
def verify(
    postgres: Dsn = None,
    redis: Url = None,
    data: Data = DATA,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended, and say what was done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Repair without asking.")] = False,
    json_: Json = False,
) -> None:
    """Check every invariant of ledger and gate; exit 1, with the evidence, where one fails."""
    from onhand.domain.errors import LedgerUnavailable
    from onhand.postgres import not_answering
    from onhand.progress import progress_line
    from onhand.verify import verify as verify_all

    dsn, url = _addresses(postgres, redis, data)
    try:
        with progress_line() as progress:
            if not repair:
                report = _run(lambda: verify_all(dsn, url, progress)).to_json()
            else:
                from onhand.repair import repair as repair_all

                may_begin = partial(_may_repair, is_asked=not yes and _is_terminal())
                report = _run(lambda: repair_all(dsn, url, may_begin=may_begin, progress=progress)).to_json()
    except LedgerUnavailable as error:
        _fail(not_answering(dsn, error))
    _finish(report, json_)


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _may_repair(found: Report, *, is_asked: bool) -> bool:
    failed = [f"{check.name} ({check.count})" for check in found.checks if not check.is_ok]
    typer.echo(f"found: {', '.join(failed)}", err=True)
    return not is_asked or typer.confirm("Mend what can be mended?", err=True)


@app.command()
def source(
    line: Annotated[list[str], typer.Option("--line", help="SKU=QUANTITY. May be repeated.")],
    method: Annotated[Literal["PICKUP", "SHIP"], typer.Option(help="How the customer gets the goods.")] = "SHIP",
    near: Annotated[
        str | None, typer.Option(help="LATITUDE,LONGITUDE of the customer, or of where it is sent.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="As if it were then: a time with its offset; now if left out.")] = None,
    channel: Annotated[
        Literal["WEB", "APP", "POS", "PHONE", "SOCIAL", "MARKETPLACE"], typer.Option(help="For whom.")
    ] = "WEB",
    only: Annotated[list[str] | None, typer.Option("--only", help="Location. May be repeated.")] = None,
    exclude: Annotated[list[str] | None, typer.Option("--exclude", help="Location. May be repeated.")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file; that of ONHAND_SOURCING_POLICY, or onhand's own, if left out.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say of every location why it was not chosen.")] = False,
    postgres: Dsn = None,
    redis: Url = None,
    data: Data = DATA,
    json_: Json = False,
) -> None:
    """Plan who would fulfil given lines, by a policy, and say why. Changes nothing."""
    from onhand.domain.errors import LedgerUnavailable, Refusal
    from onhand.domain.order import FulfillmentKind
    from onhand.postgres import not_answering
    from onhand.sourcing import command

    chosen = _sourcing_policy(policy)
    question = command.Question(
        lines=[command.parse_line(text) for text in line],
        method=FulfillmentKind(method),
        channel=channel,
        near=None if near is None else command.parse_near(near),
        only=only or (),
        excluded=exclude or (),
        assumed_time=None if at is None else command.parse_time(at),
    )
    dsn, url = _addresses(postgres, redis, data)
    try:
        answer = _run(lambda: command.simulate(dsn, url, chosen, question))
    except LedgerUnavailable as error:
        _fail(not_answering(dsn, error))
    except Refusal as refusal:
        _fail(str(refusal))
    if json_:
        _print(command.as_json(answer, is_explained=explain), True)
    else:
        typer.echo(command.as_text(answer, is_explained=explain))


# ---------------------------------------------------------------------------------------------------------------- trials
@app.command()
def replay(
    weeks: Weeks = "2-2",
    processes: ProcessCount = 2,
    seed: Seed = 1,
    target: Annotated[str, typer.Option(help="host:port of the server.")] = "127.0.0.1:50051",
    run_id: Annotated[str | None, typer.Option(help="Goes on with an interrupted run of this id.")] = None,
    rate: Annotated[
        list[str] | None, typer.Option(help="How many of 20 go another way, as no_shows=3. May be repeated.")
    ] = None,
    postgres: Dsn = None,
    redis: Url = None,
    data: Data = DATA,
    json_: Json = False,
) -> None:
    """Play real baskets against a running server, over gRPC, and audit what came of them."""
    from onhand import trials
    from onhand.feeds.records import FeedError
    from onhand.progress import progress_bars
    from onhand.simulate.calls import GaveUp
    from onhand.simulate.processes import ProcessFailed
    from onhand.simulate.rates import parse_rates

    try:
        rates = parse_rates(rate or ())
    except ValueError as error:
        _fail(str(error))
    is_known = bool(postgres or redis) or _is_dev_server(target, data)
    if is_known:  # rather now than after the last basket
        _addresses(postgres, redis, data)
    bar = f"baskets of weeks {weeks}"
    try:
        with progress_bars() as show:
            show(bar, 0, None)
            report = trials.replay(
                weeks,
                target=target,
                processes=processes,
                seed=seed,
                run_id=run_id,
                rates=rates,
                addresses=(lambda: _addresses(postgres, redis, data)) if is_known else None,
                progress=partial(show, bar),
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
    faults: Annotated[
        Literal["none", "default", "brutal"] | None,
        typer.Option(help="Not a crowd but every kind of call, while what they run on is broken."),
    ] = None,
    seconds: Annotated[float, typer.Option(min=10, max=86_400, help="How long, with --faults.")] = 20,
    redis_server: Annotated[
        str | None, typer.Option(help="Program of the gate, with --faults; the embedded Valkey if left out.")
    ] = None,
    json_: Json = False,
) -> None:
    """Let a crowd buy one sku at once; or, with --faults, break servers and connections under a mix of calls. Then audit."""
    from onhand import trials
    from onhand.progress import progress_bars
    from onhand.simulate.calls import GaveUp
    from onhand.simulate.processes import ProcessFailed

    # SIGTERM ends all of this in order, as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with progress_bars() as show:
            if faults is not None:
                if target is not None:
                    _fail("--faults breaks a stack of its own: leave out --target")
                report = trials.simulate_faults(
                    trials.Level(faults),
                    seconds=seconds,
                    processes=processes,
                    seed=seed,
                    redis_server=_program(redis_server),
                    show=show,
                )
            else:
                bar = f"{buyers} buyers of {stock} units"
                show(bar, 0, None)
                report = trials.simulate(
                    buyers=buyers,
                    stock=stock,
                    processes=processes,
                    seed=seed,
                    target=target,
                    progress=partial(show, bar),
                )
    except (GaveUp, ProcessFailed) as error:
        _fail(str(error))
    _finish(report, json_)


@app.command()
def bench(
    seconds: Annotated[float, typer.Option(min=0.05, max=600, help="Of each measurement.")] = 0.8,
    alternations: Annotated[int, typer.Option(min=1, max=1000, help="How often each is measured beside its echo.")] = 5,
    only: Annotated[list[str] | None, typer.Option("--only", help="Figures by name; all if left out.")] = None,
    in_flight: Annotated[
        list[int] | None,
        typer.Option("--in-flight", min=1, max=4096, help="Calls at once; each figure's own if left out."),
    ] = None,
    processes: ProcessCount = 1,
    pin: Annotated[bool, typer.Option(help="Give servers processors of their own.")] = True,
    fsync: Annotated[bool, typer.Option(help="PostgreSQL waits for its disk.")] = True,
    growth: Annotated[
        bool, typer.Option("--growth", help="Measure stores of several sizes too: a quarter of an hour more.")
    ] = False,
    growth_size: Annotated[
        list[str] | None, typer.Option("--growth-size", help="Of these sizes only, the first of them to compare with.")
    ] = None,
    json_: Json = False,
) -> None:
    """Measure onhand beside an echo of its own server, and beside what one would use instead, on a stack of its own."""
    from onhand.bench.figures import BY_NAME
    from onhand.bench.growth.measure import grow
    from onhand.bench.growth.size import SIZES
    from onhand.bench.load import BenchError
    from onhand.bench.run import Wanted, run
    from onhand.bench.table import table
    from onhand.progress import progress_bars

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if unknown := sorted(set(only or ()) - BY_NAME.keys()):
        _fail(f"no figure is called {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    sizes = {size.name: size for size in SIZES}
    if unknown := sorted(set(growth_size or ()) - sizes.keys()):
        _fail(f"no size is called {', '.join(unknown)}; there are {', '.join(sizes)}")
    wanted = Wanted(
        seconds=seconds,
        alternations=alternations,
        names=tuple(only or BY_NAME),
        in_flight=tuple(in_flight or ()),
        processes=processes,
        is_pinned=pin,
        has_fsync=fsync,
    )
    try:
        with progress_bars() as show:
            report = run(wanted, show)
            if growth or growth_size:
                report["growth"] = grow(wanted, show, [sizes[name] for name in growth_size or sizes])
    except BenchError as error:
        _fail(str(error))
    if json_:
        _print(report, True)
    else:
        typer.echo(table(report))
    if not report["verify"]["ok"] or not report.get("growth", {"ok": True})["ok"]:
        raise typer.Exit(1)


def _program(name: str | None) -> Path | None:
    if name is None:
        return None
    found = shutil.which(name)
    if found is None:
        _fail(f"--redis-server {name}: there is no such program")
    return Path(found)


def _finish(report: dict[str, Any], is_json: bool) -> None:
    _print(report, is_json)
    if not report["ok"]:
        raise typer.Exit(1)


def main() -> None:
    """The command line."""
    try:
        app()
    except Unusable as error:
        typer.echo(f"onhand: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
