"""Keeps the leases of virtual addresses in an SQLite file that survives kill -9 and power cuts.

Write-ahead log, and a sync to disk before `assign` and `release` return: an address that was
given out and then forgotten would be given to somebody else. When somebody was seen last may be
lost, so that write does not wait for the disk.

A file that is damaged is moved aside and its place named in the error; the next start then
begins without leases, so that a server with a broken disk is back soon, and the operator knows.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from orchestrator.core.errors import OrchestratorError
from orchestrator.core.leases import Lease, in_order
from orchestrator.core.quantities import IPAddress, Seconds

SCHEMA_VERSION: Final = 1
"""In the file's user_version; 0 is a new file."""
BUSY_LIMIT: Final = 1.0
"""Seconds to wait for another process that writes; a write takes milliseconds."""
_SCHEMA: Final = """
CREATE TABLE lease (
    identity TEXT PRIMARY KEY NOT NULL,
    static INTEGER NOT NULL,
    created TEXT NOT NULL,
    last_seen TEXT NOT NULL
) STRICT;
CREATE TABLE address (
    vip TEXT PRIMARY KEY NOT NULL,
    identity TEXT NOT NULL REFERENCES lease (identity) ON DELETE CASCADE
) STRICT;
CREATE INDEX address_of ON address (identity);
"""
_SELECT: Final = """
SELECT identity, static, created, last_seen, group_concat(vip)
FROM lease JOIN address USING (identity)
"""


class LeaseStoreError(OrchestratorError):
    """The file with the leases cannot be used, or not any more."""


class AddressTaken(OrchestratorError):
    """The address belongs to another identity; nothing was changed."""

    def __init__(self, vips: Iterable[IPAddress]) -> None:
        listed = ", ".join(str(vip) for vip in vips)
        super().__init__(f"{listed}: leased to somebody else")


def _wall() -> datetime:
    return datetime.now(UTC)


class LeaseStore:
    """Which virtual addresses belong to whom. Raises LeaseStoreError from every method."""

    def __init__(self, path: Path, wall: Callable[[], datetime] = _wall) -> None:
        """Opens the file, or makes it."""
        self._path = path
        self._wall = wall
        with self._translated("open"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=BUSY_LIMIT)
            path.chmod(0o600)
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def assign(
        self, identity: str, vips: Collection[IPAddress], *, static: bool = False
    ) -> Lease:
        """Makes these, and only these, the identity's addresses; on disk when it returns.

        Raises AddressTaken when one belongs to somebody else; nothing changed then.
        """
        if not vips:
            raise ValueError("a lease has an address")
        now = self._now()
        with self._translated("write"), self._transaction():
            self._db.execute("DELETE FROM address WHERE identity = ?", (identity,))
            self._db.execute(
                "INSERT INTO lease (identity, static, created, last_seen) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (identity) DO UPDATE SET static = excluded.static,"
                " last_seen = excluded.last_seen",
                (identity, int(static), now, now),
            )
            try:
                self._db.executemany(
                    "INSERT INTO address (vip, identity) VALUES (?, ?)",
                    [(str(vip), identity) for vip in vips],
                )
            except sqlite3.IntegrityError as error:
                raise AddressTaken(vips) from error
        found = self.lookup(identity)
        if found is None:
            raise LeaseStoreError(f"{self._path} lost a lease that was just written")
        return found

    def seen(self, identity: str) -> None:
        """The endpoint was here now; nothing if it has no lease."""
        with self._translated("write"):
            self._db.execute("PRAGMA synchronous = NORMAL")
            try:
                self._db.execute(
                    "UPDATE lease SET last_seen = ? WHERE identity = ?", (self._now(), identity)
                )
            finally:
                self._db.execute("PRAGMA synchronous = FULL")

    def release(self, identity: str) -> None:
        """The identity has no lease any more; on disk when it returns."""
        with self._translated("write"):
            self._db.execute("DELETE FROM lease WHERE identity = ?", (identity,))

    def expire(self, after: Seconds) -> tuple[str, ...]:
        """Releases what was not seen for so long, but for static leases; returns the
        identities."""
        limit = (self._wall() - timedelta(seconds=after)).isoformat(timespec="milliseconds")
        with self._translated("write"), self._transaction():
            rows = self._db.execute(
                "SELECT identity FROM lease WHERE NOT static AND last_seen < ?", (limit,)
            ).fetchall()
            gone = tuple(identity for (identity,) in rows)
            self._db.executemany(
                "DELETE FROM lease WHERE identity = ?", [(identity,) for identity in gone]
            )
        return gone

    def lookup(self, identity: str) -> Lease | None:
        return next(iter(self._select("WHERE identity = ?", identity)), None)

    def all(self) -> tuple[Lease, ...]:
        """Every lease, by identity."""
        return self._select("")

    def _select(self, condition: str, *parameters: str) -> tuple[Lease, ...]:
        query = f"{_SELECT} {condition} GROUP BY identity ORDER BY identity"
        with self._translated("read"):
            return tuple(
                Lease(
                    identity=identity,
                    vips=in_order(ip_address(vip) for vip in vips.split(",")),
                    static=bool(static),
                    created=created,
                    last_seen=last_seen,
                )
                for identity, static, created, last_seen, vips in self._db.execute(
                    query, parameters
                )
            )

    def _prepare(self) -> None:
        """Checks the file, and makes the tables of a new one."""
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA foreign_keys = ON")
            verdict = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if verdict == "ok" and version == 0:
                version = self._create()
            if verdict == "ok" and version == SCHEMA_VERSION:
                self._db.execute(f"{_SELECT} GROUP BY identity").fetchall()
        except sqlite3.DatabaseError as error:
            # SQLITE_ERROR is an SQL that the file does not understand: its tables are not ours.
            operational = isinstance(error, sqlite3.OperationalError)
            if operational and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                raise self._error("open", error) from error
            verdict, version = str(error), SCHEMA_VERSION
        if version > SCHEMA_VERSION:
            raise LeaseStoreError(
                f"{self._path} was written by a newer version of this program: install that, "
                "or move the file away and lose the leases"
            )
        if verdict != "ok":
            self._set_aside(str(verdict).splitlines()[-1])

    def _create(self) -> int:
        with self._transaction():
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return SCHEMA_VERSION

    def _set_aside(self, verdict: str) -> None:
        self._db.close()
        aside = self._path.with_name(f"{self._path.name}.damaged-{_wall():%Y%m%dT%H%M%SZ}")
        with self._translated("move aside"):
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    self._path.with_name(self._path.name + suffix).rename(
                        aside.with_name(aside.name + suffix)
                    )
        raise LeaseStoreError(
            f"{self._path} is damaged ({verdict}) and was moved to {aside}: put a backup in "
            "its place, or start again without leases: endpoints may then get other addresses, "
            "which closes their connections"
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing, whatever happens."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    @contextlib.contextmanager
    def _translated(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._error(operation, error) from error

    def _error(self, operation: str, error: Exception) -> LeaseStoreError:
        return LeaseStoreError(f"cannot {operation} {self._path}: {error}")

    def _now(self) -> str:
        return self._wall().isoformat(timespec="milliseconds")
