"""Predictions are found by the caller's ids and by whom they are about; exports that a worker writes."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

CALLED = sa.text("length(client_id) <= 200")
MOMENT = sa.DateTime(timezone=True)
OWNED = sa.text("subject IS NOT NULL")


def upgrade() -> None:
    # Without a default and with a partial index: no row of a large log is written for it.
    op.add_column("predictions", sa.Column("subject", sa.Text(), nullable=True))
    op.create_index("ix_predictions_subject", "predictions", ["subject"], sqlite_where=OWNED, postgresql_where=OWNED)
    op.create_table(
        "subject_deletions",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_subject_deletions")),
    )
    op.create_index("ix_subject_deletions_subject", "subject_deletions", ["subject"])
    op.create_index(
        "ix_predictions_caller",
        "predictions",
        ["client_id", "at", "id"],
        sqlite_where=CALLED,
        postgresql_where=CALLED,
    )
    op.create_table(
        "exports",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("asked_by", sa.Text(), nullable=False),
        sa.Column("form", sa.Text(), nullable=False),
        sa.Column("wanted", sa.JSON(), nullable=False),
        sa.Column("begins_at", MOMENT, nullable=True),
        sa.Column("reached_at", MOMENT, nullable=True),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("leased_by", sa.Text(), nullable=True),
        sa.Column("leased_until", MOMENT, nullable=True),
        sa.Column("done_at", MOMENT, nullable=True),
        sa.Column("failed_at", MOMENT, nullable=True),
        sa.Column("failure", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exports")),
    )


def downgrade() -> None:
    op.drop_table("exports")
    op.drop_index("ix_predictions_caller", "predictions")
    op.drop_table("subject_deletions")
    op.drop_index("ix_predictions_subject", "predictions")
    op.drop_column("predictions", "subject")
