"""The embedded Postgres: nothing committed is lost, nothing is left running, never two on one cluster."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

import local.postgres
from local.postgres import Postgres, PostgresError, create_database, database_url, drop_database

PASSWORD = "s3cret/with @ everything:ü"
ROOT = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@contextmanager
def running(folder: Path, password: str = PASSWORD, port: int = 0) -> Iterator[Postgres]:
    server = Postgres.start(folder, password=password, port=port)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with running(tmp_path_factory.mktemp("postgres")) as postgres:
        yield postgres


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped cluster with the table `kept`; each test leaves it stopped."""
    folder = tmp_path_factory.mktemp("cluster") / "closed" / "postgres"
    folder.parent.mkdir(mode=0o700)
    (folder / "data.new").mkdir(parents=True)  # as an initdb that was killed leaves it
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    with running(folder) as postgres:
        run(postgres.url(), "CREATE TABLE kept (n int)")
    return folder


def run(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def eventually(condition: Callable[[], bool]) -> bool:
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def processes_of(cluster: Path) -> list[int]:
    """Every process that works in the cluster's data directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").samefile(cluster / "data"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def test_it_is_durable_and_reached_by_password_alone(server: Postgres) -> None:
    names = ["fsync", "synchronous_commit", "full_page_writes", "unix_socket_directories", "listen_addresses"]
    found = run(server.url(), f"SELECT {', '.join(f"current_setting('{name}')" for name in names)}")
    assert found == [("on", "on", "on", "", "127.0.0.1")]
    assert run(server.url("postgres"), "SELECT current_user, current_database()") == [("okane", "postgres")]
    for wrong in (
        server.url(password="wrong"),
        server.url(user="asha", password=PASSWORD),
        server.url(user="asha"),
    ):
        with pytest.raises(psycopg.OperationalError):
            run(wrong, "SELECT 1")


def test_the_password_is_nowhere_to_be_seen(server: Postgres) -> None:
    with pytest.raises(psycopg.Error):
        run(server.url(), f"ALTER ROLE nobody_here PASSWORD '{PASSWORD}'")
    seen = repr(server) + server.log.read_text()
    if sys.platform == "linux":
        seen += "".join(Path(f"/proc/{server.pid}/{name}").read_text() for name in ("cmdline", "environ"))
    assert "nobody_here" in seen  # the failure was logged, the statement was not
    assert PASSWORD not in seen


def test_ctrl_c_in_the_terminal_does_not_reach_it(server: Postgres) -> None:
    assert os.getsid(server.pid) == server.pid != os.getsid(0)


@as_root
def test_roots_server_is_not_root(server: Postgres) -> None:
    status = Path(f"/proc/{server.pid}/status").read_text()
    nobody = pwd.getpwnam("nobody")
    assert f"Uid:\t{'\t'.join([str(nobody.pw_uid)] * 4)}\n" in status
    assert f"Gid:\t{'\t'.join([str(nobody.pw_gid)] * 4)}\n" in status
    assert "Groups:\t \n" in status
    assert "CapEff:\t0000000000000000\n" in status


def test_a_database_is_cloned_and_dropped(server: Postgres) -> None:
    template = create_database(server.url(), 'tem"plate')
    run(template, "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('from the template')")
    copy = create_database(template, "copy/1", template='tem"plate')
    run(copy, "DELETE FROM notes")
    assert run(template, "SELECT text FROM notes") == [("from the template",)]
    with pytest.raises(psycopg.errors.DuplicateDatabase):
        create_database(server.url(), "copy/1")
    with psycopg.connect(copy):  # somebody is still in it
        drop_database(copy, "copy/1")
    drop_database(server.url(), "copy/1")
    drop_database(server.url(), 'tem"plate')
    assert run(server.url(), "SELECT count(*) FROM pg_database WHERE datname LIKE '%/%'") == [(0,)]


def test_the_url_of_another_database_keeps_the_rest() -> None:
    url = database_url("postgresql://okane:a%2Fb@db.example.com:5433/one?sslmode=require", "t wo")
    assert url == "postgresql://okane:a%2Fb@db.example.com:5433/t%20wo?sslmode=require"


def test_what_was_committed_survives_a_stop(cluster: Path) -> None:
    with running(cluster) as postgres:
        run(postgres.url(), "TRUNCATE kept; INSERT INTO kept SELECT generate_series(1, 100)")
    assert postgres.process.returncode == 0
    postgres.stop()  # once more does no harm
    with running(cluster) as postgres:
        assert run(postgres.url(), "SELECT count(*) FROM kept") == [(100,)]
    assert (cluster / "postgres.log.1").exists()


def test_what_was_committed_survives_a_kill(cluster: Path) -> None:
    with running(cluster) as postgres:
        run(postgres.url(), "TRUNCATE kept; INSERT INTO kept VALUES (1), (2), (3)")
        for pid in processes_of(cluster) or [postgres.pid]:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself, as a connection's process does
                os.kill(pid, signal.SIGKILL)
        postgres.process.wait()
    pid_file = cluster / "data" / "postmaster.pid"
    assert pid_file.exists()
    owner = pid_file.stat().st_uid
    with subprocess.Popen(["sleep", "60"], user=owner if os.geteuid() == 0 else None) as other:
        try:
            # The worst case: by now the number belongs to a living process of the same user.
            pid_file.write_text(pid_file.read_text().replace(str(postgres.pid), str(other.pid), 1))
            with running(cluster) as postgres:
                assert run(postgres.url(), "SELECT count(*) FROM kept") == [(3,)]
        finally:
            other.kill()


def test_an_empty_pid_file_does_not_matter(cluster: Path) -> None:
    (cluster / "data" / "postmaster.pid").touch()
    with running(cluster) as postgres:
        assert run(postgres.url(), "SELECT 1") == [(1,)]


def test_there_are_never_two_on_one_cluster(cluster: Path) -> None:
    with running(cluster) as postgres:
        with pytest.raises(PostgresError, match=rf"already running .*\(process {postgres.pid}\)"):
            Postgres.start(cluster, password=PASSWORD)
        assert run(postgres.url(), "SELECT 1") == [(1,)]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a killed parent cannot take its children along")
def test_it_dies_with_its_parent_and_loses_nothing(cluster: Path) -> None:
    program = (
        "import sys, time, psycopg\n"
        "from pathlib import Path\n"
        "from local.postgres import Postgres\n"
        f"server = Postgres.start(Path(sys.argv[1]), password={PASSWORD!r})\n"
        "with psycopg.connect(server.url()) as connection:\n"
        "    connection.execute('TRUNCATE kept')\n"
        "    connection.execute('INSERT INTO kept VALUES (7)')\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(cluster)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) in processes_of(cluster)
        parent.kill()
        parent.wait()
    with running(cluster) as postgres:  # at once: a server that is still shutting down is waited for
        assert run(postgres.url(), "SELECT n FROM kept") == [(7,)]
    assert eventually(lambda: not processes_of(cluster))


def test_a_server_that_hangs_is_stopped_all_the_same(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.postgres, "STOP_STEPS", ((signal.SIGINT, 0.1), (signal.SIGQUIT, 0.1)))
    with running(cluster) as postgres:
        os.kill(postgres.pid, signal.SIGSTOP)
    assert postgres.process.returncode == -signal.SIGKILL
    assert eventually(lambda: not processes_of(cluster))


def test_a_port_in_use_is_named(cluster: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PostgresError, match=rf"port {port} on 127\.0\.0\.1: Address already in use"):
            Postgres.start(cluster, password=PASSWORD, port=port)
    with running(cluster, port=port) as postgres:
        assert postgres.port == port


def test_another_password_is_told_from_other_trouble(cluster: Path) -> None:
    with pytest.raises(PostgresError, match="made with another password"):
        Postgres.start(cluster, password="not that one")
    assert eventually(lambda: not processes_of(cluster))


def test_a_start_that_fails_shows_the_log(cluster: Path) -> None:
    version = cluster / "data" / "PG_VERSION"
    version.write_text("9.6\n")
    try:
        with pytest.raises(PostgresError, match=r"initialized by PostgreSQL version 9\.6"):
            Postgres.start(cluster, password=PASSWORD)
    finally:
        version.write_text("18\n")


@as_root
def test_the_public_copy_is_roots_own_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    (theirs / "okane").mkdir(parents=True)
    os.chown(theirs / "okane", pwd.getpwnam("daemon").pw_uid, -1)  # a trap laid where anyone may write
    ours.mkdir()
    monkeypatch.setattr(local.postgres, "_PUBLIC_PLACES", (theirs, ours))
    umask = os.umask(0o077)
    try:
        postgres = local.postgres._Place.of(tmp_path).programs / "postgres"
    finally:
        os.umask(umask)
    assert postgres.is_relative_to(ours)
    assert all(path.stat().st_mode & 0o777 in {0o755, 0o644} for path in ours.rglob("*"))
    assert postgres.stat().st_mode & 0o777 == 0o755
    assert not list((theirs / "okane").iterdir())
    before = postgres.stat()
    assert (local.postgres._Place.of(tmp_path).programs / "postgres").stat() == before  # not copied again


@as_root
@pytest.mark.filterwarnings("ignore:.*is multi-threaded")  # the threads are those of the runner, and stay in the parent
def test_an_ordinary_user_runs_it_and_root_can_go_on_with_it() -> None:
    """The child's code is loaded already: Python's own files may lie where only root can read them."""
    user = pwd.getpwnam("daemon")
    folder = Path(tempfile.mkdtemp()) / "postgres"
    os.chown(folder.parent, user.pw_uid, user.pw_gid)
    try:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setgroups([])
                os.setgid(user.pw_gid)
                os.setuid(user.pw_uid)
                with running(folder) as postgres:
                    run(postgres.url(), "CREATE TABLE mine AS SELECT 1 AS n")
                code = 0
            except PostgresError as error:
                code = 2 if "Permission denied" in str(error) else 3
            finally:
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 2:
            pytest.skip("this user cannot reach the Postgres programs here")
        assert code == 0
        with running(folder) as postgres:
            assert run(postgres.url(), "SELECT n FROM mine") == [(1,)]
            assert f"Uid:\t{user.pw_uid}\t" in Path(f"/proc/{postgres.pid}/status").read_text()
        assert (folder / "data" / "base").stat().st_uid == user.pw_uid
    finally:
        shutil.rmtree(folder.parent)
