"""Predictions that came from the cache, versions whose plan was switched off, and what each web worker holds."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("predictions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("cached", sa.Boolean(), nullable=False, server_default=sa.false()))

    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("plan_off_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("plan_off_reason", sa.Text(), nullable=True))

    with op.batch_alter_table("web_workers", schema=None) as batch_op:
        batch_op.add_column(sa.Column("held", sa.JSON(), nullable=False, server_default="[]"))


def downgrade() -> None:
    with op.batch_alter_table("web_workers", schema=None) as batch_op:
        batch_op.drop_column("held")

    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.drop_column("plan_off_reason")
        batch_op.drop_column("plan_off_at")

    with op.batch_alter_table("predictions", schema=None) as batch_op:
        batch_op.drop_column("cached")
