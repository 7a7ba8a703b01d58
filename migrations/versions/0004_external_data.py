"""The companion file that holds a model's external weights: the same network with other weights is another model.

Revision: 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Add digest and size of the companion, empty where there is none, and make the digest part of the identity."""
    with op.batch_alter_table("models") as models:
        models.add_column(
            sa.Column("external_data_sha256", sa.String(length=64), server_default=sa.text("''"), nullable=False)
        )
        models.add_column(sa.Column("external_data_bytes", BIG, server_default=sa.text("0"), nullable=False))
        models.drop_constraint(op.f("uq_models_tenant_sha256"), type_="unique")
        models.create_unique_constraint(
            op.f("uq_models_tenant_sha256_external_data_sha256"), ["tenant", "sha256", "external_data_sha256"]
        )
    op.create_index(op.f("ix_models_external_data_sha256"), "models", ["external_data_sha256"])


def downgrade() -> None:
    """Forget the companions; models that have one go, because without it they are not what was uploaded."""
    op.drop_index(op.f("ix_models_external_data_sha256"), "models")
    op.execute("DELETE FROM models WHERE external_data_sha256 <> ''")
    with op.batch_alter_table("models") as models:
        models.drop_constraint(op.f("uq_models_tenant_sha256_external_data_sha256"), type_="unique")
        models.create_unique_constraint(op.f("uq_models_tenant_sha256"), ["tenant", "sha256"])
        models.drop_column("external_data_bytes")
        models.drop_column("external_data_sha256")
