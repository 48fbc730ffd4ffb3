"""Traffic by the hour, and the orders in which the log is searched."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hourly_traffic",
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("latency_step", sa.Integer(), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.Column("warned", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("hour", "model", "version", "source", "latency_step", name=op.f("pk_hourly_traffic")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "key_traffic",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("predictions", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "hour", name=op.f("pk_key_traffic")),
        sqlite_with_rowid=False,
    )
    with op.batch_alter_table("predictions", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_predictions_key_id_predictions_at_predictions_id"), ["key_id", "at", "id"], unique=False
        )
        batch_op.create_index(
            batch_op.f("ix_predictions_model_predictions_at_predictions_id"), ["model", "at", "id"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("predictions", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_predictions_model_predictions_at_predictions_id"))
        batch_op.drop_index(batch_op.f("ix_predictions_key_id_predictions_at_predictions_id"))

    op.drop_table("key_traffic")
    op.drop_table("hourly_traffic")
