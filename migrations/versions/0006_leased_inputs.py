"""What a device needs to run a network: the file of its weights, and lengths for axes that are free.

Revision: 0006, after 0005.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
JSON = sa.JSON(none_as_null=True)
TABLES = ("measurement_requests", "measurement_items")


def upgrade() -> None:
    """Add digest and size of the companion, empty where there is none, and the shapes of inputs."""
    for table in TABLES:
        op.add_column(
            table,
            sa.Column("external_data_sha256", sa.String(length=64), server_default=sa.text("''"), nullable=False),
        )
        op.add_column(table, sa.Column("external_data_bytes", BIG, server_default=sa.text("0"), nullable=False))
    op.add_column("measurement_requests", sa.Column("shapes", JSON, nullable=True))


def downgrade() -> None:
    """Forget them; requests that need a companion or shapes go, because without it they cannot be answered."""
    op.execute(
        "DELETE FROM measurement_items WHERE request_id IN"
        " (SELECT id FROM measurement_requests WHERE external_data_sha256 <> '' OR shapes IS NOT NULL)"
        " OR external_data_sha256 <> ''"
    )
    op.execute("DELETE FROM measurement_requests WHERE external_data_sha256 <> '' OR shapes IS NOT NULL")
    with op.batch_alter_table("measurement_requests") as requests:
        requests.drop_column("shapes")
    for table in TABLES:
        with op.batch_alter_table(table) as changed:
            changed.drop_column("external_data_bytes")
            changed.drop_column("external_data_sha256")
