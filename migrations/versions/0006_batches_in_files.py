"""Rows and results of batches are files; a batch says how its rows are written, and can be sent again."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.add_column(sa.Column("form", sa.Text(), nullable=False, server_default="json"))
        batch_op.add_column(sa.Column("idempotency_key", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("body_sha256", sa.Text(), nullable=True))
        batch_op.create_unique_constraint(batch_op.f("uq_jobs_key_id_idempotency_key"), ["key_id", "idempotency_key"])

    # What was accepted before keeps its rows and results here.
    with op.batch_alter_table("chunks", schema=None) as batch_op:
        batch_op.alter_column("instances", existing_type=sa.JSON(), nullable=True)
        batch_op.alter_column("ids", existing_type=sa.JSON(), nullable=True)
        batch_op.create_index(
            "ix_chunks_waiting",
            ["job_id", "number"],
            unique=False,
            sqlite_where=sa.text("done_at IS NULL"),
            postgresql_where=sa.text("done_at IS NULL"),
        )


def downgrade() -> None:
    # The release before knows no files: their chunks, which it could not read, are the newer release's to finish.
    op.execute(sa.text("DELETE FROM chunks WHERE instances IS NULL OR ids IS NULL"))
    with op.batch_alter_table("chunks", schema=None) as batch_op:
        batch_op.drop_index("ix_chunks_waiting")
        batch_op.alter_column("ids", existing_type=sa.JSON(), nullable=False)
        batch_op.alter_column("instances", existing_type=sa.JSON(), nullable=False)

    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_constraint(batch_op.f("uq_jobs_key_id_idempotency_key"), type_="unique")
        batch_op.drop_column("body_sha256")
        batch_op.drop_column("idempotency_key")
        batch_op.drop_column("form")
