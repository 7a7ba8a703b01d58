"""Statistics of a network on its data, shared by the jobs that ask the same of them.

Revision: 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
WHEN = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "statistics",
        sa.Column("tenant", sa.String(length=40), server_default=sa.text("'default'"), nullable=False),
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("step", sa.String(length=255), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size_bytes", BIG, nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("created_at", WHEN, nullable=False),
        sa.Column("used_at", WHEN, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", "step", "name", name=op.f("pk_statistics")),
    )
    for column in ("sha256", "used_at"):
        op.create_index(op.f(f"ix_statistics_{column}"), "statistics", [column])


def downgrade() -> None:
    """Drop it; what it knew is computed again."""
    op.drop_table("statistics")
