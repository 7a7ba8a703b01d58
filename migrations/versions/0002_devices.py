"""Devices with their agents' tokens, and the measurements that are asked of them.

Revision: 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WHEN = sa.DateTime(timezone=True)
JSON = sa.JSON(none_as_null=True)


def upgrade() -> None:
    """Create both tables."""
    _create_devices()
    _create_measurement_requests()


def downgrade() -> None:
    """Drop them, the one that refers to the other first."""
    op.drop_table("measurement_requests")
    op.drop_table("devices")


def _create_devices() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("token_sha256", sa.String(length=64), nullable=False),
        sa.Column("attributes", JSON, nullable=True),
        sa.Column("created_at", WHEN, nullable=False),
        sa.Column("seen_at", WHEN, nullable=True),
        sa.Column("revoked_at", WHEN, nullable=True),
        sa.Column("tenant", sa.String(length=40), server_default=sa.text("'default'"), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_devices")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_devices_token_sha256")),
    )
    op.create_index(op.f("ix_devices_tenant_id"), "devices", ["tenant", "id"])


def _create_measurement_requests() -> None:
    op.create_table(
        "measurement_requests",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("device_id", sa.String(length=40), nullable=False),
        sa.Column("artifact_id", sa.String(length=40), nullable=True),
        sa.Column("model_id", sa.String(length=40), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("threads", sa.Integer(), nullable=True),
        sa.Column("batch", sa.Integer(), nullable=False),
        sa.Column("provider", sa.String(length=255), nullable=True),
        sa.Column("warmup", sa.Integer(), nullable=False),
        sa.Column("repeats", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=40), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_id", sa.String(length=40), nullable=True),
        sa.Column("lease_agent", sa.String(length=255), nullable=True),
        sa.Column("leased_at", WHEN, nullable=True),
        sa.Column("lease_until", WHEN, nullable=True),
        sa.Column("problem", JSON, nullable=True),
        sa.Column("measurement_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", WHEN, nullable=False),
        sa.Column("expires_at", WHEN, nullable=False),
        sa.Column("finished_at", WHEN, nullable=True),
        sa.Column("tenant", sa.String(length=40), server_default=sa.text("'default'"), nullable=False),
        sa.CheckConstraint(
            "state IN ('queued', 'leased', 'measured', 'failed', 'cancelled')",
            name=op.f("ck_measurement_requests_state"),
        ),
        *(
            sa.ForeignKeyConstraint(
                [column],
                [f"{table}.id"],
                name=op.f(f"fk_measurement_requests_{column}_{table}"),
                ondelete=ondelete,
            )
            for column, table, ondelete in (
                ("device_id", "devices", "CASCADE"),
                ("artifact_id", "artifacts", "CASCADE"),
                ("measurement_id", "measurements", "SET NULL"),
            )
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement_requests")),
        sa.UniqueConstraint("lease_id", name=op.f("uq_measurement_requests_lease_id")),
    )
    for columns in (
        ["artifact_id"],
        ["measurement_id"],
        ["sha256"],
        ["device_id", "state", "id"],
        ["state", "expires_at"],
    ):
        op.create_index(op.f(f"ix_measurement_requests_{'_'.join(columns)}"), "measurement_requests", columns)
