"""Where the time of a request went, and the trace that it belonged to."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TRACED = sa.text("trace_id IS NOT NULL")


def upgrade() -> None:
    # Without a default and with a partial index: no row of a large log is written for it.
    op.add_column("predictions", sa.Column("timings", sa.JSON(), nullable=True))
    op.add_column("predictions", sa.Column("trace_id", sa.Text(), nullable=True))
    op.create_index(
        "ix_predictions_trace",
        "predictions",
        ["trace_id", "at", "id"],
        sqlite_where=TRACED,
        postgresql_where=TRACED,
    )


def downgrade() -> None:
    op.drop_index("ix_predictions_trace", "predictions")
    op.drop_column("predictions", "trace_id")
    op.drop_column("predictions", "timings")
