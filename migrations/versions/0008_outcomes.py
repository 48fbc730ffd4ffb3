"""What turned out to be true for predictions; they are found by the caller's own ids, too."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# Most callers give no ids of their own; what is longer than any door takes fits no index.
CALLED = sa.text("length(client_id) <= 200")
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "outcomes",
        sa.Column("prediction_id", TEXT, nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("told_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["prediction_id"],
            ["predictions.id"],
            name=op.f("fk_outcomes_prediction_id_predictions"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("prediction_id", name=op.f("pk_outcomes")),
    )
    op.create_index(
        "ix_predictions_called",
        "predictions",
        ["key_id", "client_id"],
        sqlite_where=CALLED,
        postgresql_where=CALLED,
    )


def downgrade() -> None:
    op.drop_index("ix_predictions_called", "predictions")
    op.drop_table("outcomes")
