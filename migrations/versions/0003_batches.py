"""Several networks timed in turn, requests of jobs, micro-graphs, profiles and imports in the record.

Revision: 0003, after 0002.
"""

import hashlib
import json
from contextlib import AbstractContextManager

import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True)
STATES = "state IN ('queued', 'leased', 'measured', 'failed', 'cancelled')"
RECORD = ("sha256", "runtime", "runtime_version", "provider", "threads", "batch", "warmup", "samples_ms", "load_ms",
          "peak_rss_bytes", "host")  # fmt: skip
INDICES = (("tenant", "sha256"), ("tenant", "device", "kind"), ("tenant", "record_sha256"))
IMPORTED = sa.text("source IS NOT NULL")
TO_DEVICES = "fk_measurement_requests_device_id_devices"
TO_JOBS = "fk_measurement_requests_job_id_jobs"
ONCE = "uq_measurement_requests_once"


def upgrade() -> None:
    """Widen requests and measurements, and add the items of requests."""
    _widen_requests()
    _widen_measurements()
    _create_items()


def downgrade() -> None:
    """Take it back; what was asked of `dev_local` goes, since it is no row that a request may refer to."""
    op.drop_table("measurement_items")
    op.drop_index("uq_measurements_imported", "measurements")
    for columns in INDICES:
        op.drop_index(op.f(f"ix_measurements_{'_'.join(columns)}"), "measurements")
    for column in ("record_sha256", "source", "profile", "key", "kind"):
        op.drop_column("measurements", column)
    op.execute("DELETE FROM measurement_requests WHERE device_id NOT IN (SELECT id FROM devices)")
    op.drop_index(op.f("ix_measurement_requests_job_id"), "measurement_requests")
    with _requests() as table:
        table.drop_constraint(op.f(TO_JOBS), type_="foreignkey")
        table.drop_constraint(op.f(ONCE), type_="unique")
        for column in ("profile", "once", "job_id"):
            table.drop_column(column)
        table.create_foreign_key(op.f(TO_DEVICES), "devices", ["device_id"], ["id"], ondelete="CASCADE")


def _requests() -> AbstractContextManager[BatchOperations]:
    """The table of requests, which SQLite copies to change; its check is not read back from there."""
    check = sa.CheckConstraint(STATES, name=op.f("ck_measurement_requests_state"))
    return op.batch_alter_table("measurement_requests", table_args=(check,))


def _widen_requests() -> None:
    with _requests() as table:
        table.drop_constraint(op.f(TO_DEVICES), type_="foreignkey")
        table.add_column(sa.Column("job_id", sa.String(length=40), nullable=True))
        table.add_column(sa.Column("once", sa.String(length=64), nullable=True))
        table.add_column(sa.Column("profile", sa.Boolean(), server_default=sa.false(), nullable=False))
        table.create_foreign_key(op.f(TO_JOBS), "jobs", ["job_id"], ["id"], ondelete="SET NULL")
        table.create_unique_constraint(op.f(ONCE), ["once"])
    op.create_index(op.f("ix_measurement_requests_job_id"), "measurement_requests", ["job_id"])


def _widen_measurements() -> None:
    word = sa.Column("kind", sa.String(length=40), server_default=sa.text("'network'"), nullable=False)
    op.add_column("measurements", word)
    op.add_column("measurements", sa.Column("key", sa.Text(), nullable=True))
    op.add_column("measurements", sa.Column("profile", JSON, nullable=True))
    op.add_column("measurements", sa.Column("source", JSON, nullable=True))
    # Every row gets its own below; the default only lets a column be added that may not be null.
    with op.batch_alter_table("measurements") as table:
        table.add_column(sa.Column("record_sha256", sa.String(length=64), nullable=False, server_default=""))
    _digest_what_is_there()
    with op.batch_alter_table("measurements") as table:
        table.alter_column("record_sha256", server_default=None)
    for columns in INDICES:
        op.create_index(op.f(f"ix_measurements_{'_'.join(columns)}"), "measurements", list(columns))
    op.create_index(
        "uq_measurements_imported",
        "measurements",
        ["tenant", "record_sha256"],
        unique=True,
        sqlite_where=IMPORTED,
        postgresql_where=IMPORTED,
    )


def _digest_what_is_there() -> None:
    columns: list[sa.ColumnClause[object]] = [sa.column("id"), sa.column("record_sha256")]
    columns += [sa.column(name, JSON if name in {"samples_ms", "host"} else None) for name in RECORD]
    table = sa.table("measurements", *columns)
    connection = op.get_bind()
    for row in connection.execute(sa.select(*(table.c[name] for name in ("id", *RECORD)))).mappings().all():
        said = {**{name: row[name] for name in RECORD}, "kind": "network", "key": None}
        text = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        connection.execute(sa.update(table).where(table.c.id == row["id"]).values(record_sha256=digest))


def _create_items() -> None:
    op.create_table(
        "measurement_items",
        sa.Column("id", BIG, nullable=False),
        sa.Column("request_id", sa.String(length=40), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("key", sa.Text(), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("artifact_id", sa.String(length=40), nullable=True),
        sa.Column("model_id", sa.String(length=40), nullable=True),
        sa.Column("measurement_id", sa.String(length=40), nullable=True),
        sa.Column("problem", JSON, nullable=True),
        sa.Column("tenant", sa.String(length=40), server_default=sa.text("'default'"), nullable=False),
        sa.CheckConstraint("kind IN ('network', 'layer')", name=op.f("ck_measurement_items_kind")),
        *(
            sa.ForeignKeyConstraint(
                [column],
                [f"{table}.id"],
                name=op.f(f"fk_measurement_items_{column}_{table}"),
                ondelete=ondelete,
            )
            for column, table, ondelete in (
                ("request_id", "measurement_requests", "CASCADE"),
                ("artifact_id", "artifacts", "CASCADE"),
                ("measurement_id", "measurements", "SET NULL"),
            )
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement_items")),
        sa.UniqueConstraint("request_id", "position", name=op.f("uq_measurement_items_request_id_position")),
    )
    for column in ("sha256", "artifact_id", "measurement_id"):
        op.create_index(op.f(f"ix_measurement_items_{column}"), "measurement_items", [column])
