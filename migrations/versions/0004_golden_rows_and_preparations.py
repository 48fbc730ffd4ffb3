"""Golden rows of versions, preparations before an activation, and what an upload weighs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "preparations",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("failure", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_preparations")),
    )
    with op.batch_alter_table("preparations", schema=None) as batch_op:
        batch_op.create_index(
            batch_op.f("ix_preparations_host_preparations_done_at"), ["host", "done_at"], unique=False
        )

    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.add_column(sa.Column("bytes", sa.BigInteger(), nullable=False, server_default="0"))
        batch_op.add_column(sa.Column("not_activated", sa.Text(), nullable=True))

    with op.batch_alter_table("uploads") as batch_op:
        batch_op.alter_column("bytes", server_default=None)

    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.add_column(sa.Column("golden", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("report_sha256", sa.Text(), nullable=True))
        batch_op.add_column(sa.Column("trained_with", sa.Text(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("versions", schema=None) as batch_op:
        batch_op.drop_column("trained_with")
        batch_op.drop_column("report_sha256")
        batch_op.drop_column("golden")

    with op.batch_alter_table("uploads", schema=None) as batch_op:
        batch_op.drop_column("not_activated")
        batch_op.drop_column("bytes")

    with op.batch_alter_table("preparations", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_preparations_host_preparations_done_at"))

    op.drop_table("preparations")
