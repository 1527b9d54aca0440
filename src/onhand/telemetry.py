"""What servers count and time, for Prometheus. docs/metrics.md says what each metric means and when to worry.

Server processes that share a port cannot share a page of metrics: each writes its values to files of a folder
(PROMETHEUS_MULTIPROC_DIR, which their parent sets), and the parent answers for all of them, also for those that ended.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from onhand.settings import Unusable

log = logging.getLogger(__name__)

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable by which the library learns the folder; read when it is imported."""
CALL_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
CLOSED_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

CALL_SECONDS = Histogram(
    "onhand_call_seconds", "How long calls took, by method and gRPC code.", ("method", "code"), buckets=CALL_BUCKETS
)
REFUSALS = Counter("onhand_refusals", "Calls that were refused, by the reason their callers got.", ("reason",))
GATE_UNREACHABLE = Counter("onhand_gate_unreachable", "Pipelines to Redis/Valkey without an answer.")
LEDGER_UNAVAILABLE = Counter("onhand_ledger_unavailable", "Uses of PostgreSQL that failed for want of it.")
BYPASSES = Counter("onhand_gate_bypasses", "Facts that were booked past the gate.")
REBUILDS = Counter("onhand_rebuilds", "Rebuilds of a location's gate data, by outcome.", ("outcome",))
CLOSED_SECONDS = Histogram(
    "onhand_rebuild_closed_seconds", "How long a location was closed for a rebuild.", buckets=CLOSED_BUCKETS
)
DIFFERENCES = Counter("onhand_gate_differences", "Proved differences of gate and ledger, by what differed.", ("what",))
ORPHANS_CLOSED = Counter("onhand_orphans_closed", "Claims without a row that were closed and given back.")
EXPIRED = Counter("onhand_reservations_expired", "Claims of reservations that ran past their deadline.")
JOBS_ENDED = Counter("onhand_jobs_ended", "Tries of jobs, by job and how they ended.", ("job", "outcome"))
LOOP_ERRORS = Counter("onhand_loop_errors", "Failed steps of the loops behind the calls.", ("loop",))


@contextmanager
def exposed(host: str, port: int | None, *, is_alone: bool) -> Iterator[dict[str, str]]:
    """Answers http://host:port/metrics (port 0: a free one, it is logged; None: nowhere) until the block ends.

    Gives what the environment of server processes must say. `is_alone`: this process serves, and the values are its own.
    Raises Unusable where the port cannot be listened on.
    """
    if port is None:
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="onhand-metrics-", ignore_cleanup_errors=True) as folder:
        registry = REGISTRY if is_alone else _of_all(Path(folder))
        try:
            server, thread = start_http_server(port, host, registry)
        except OSError as error:
            raise Unusable(
                f"metrics cannot be served on {host}:{port} ({error.strerror}); choose another --metrics-port"
            ) from error
        log.info("metrics on http://%s:%d/metrics", host, server.server_port)
        try:
            yield {} if is_alone else {FOLDER: folder}
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _of_all(folder: Path) -> CollectorRegistry:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return registry
