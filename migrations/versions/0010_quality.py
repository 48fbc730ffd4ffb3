"""What is known to be true stands beside the version and the time that it is about."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COPIED = {"model": sa.Text(), "version": sa.Integer(), "at": sa.DateTime(timezone=True), "source": sa.Text()}


def upgrade() -> None:
    for name, kind in COPIED.items():
        op.add_column("outcomes", sa.Column(name, kind, nullable=True))
    op.execute(
        sa.text(
            "UPDATE outcomes SET"
            " model = (SELECT p.model FROM predictions p WHERE p.id = prediction_id),"
            " version = (SELECT p.version FROM predictions p WHERE p.id = prediction_id),"
            " at = (SELECT p.at FROM predictions p WHERE p.id = prediction_id),"
            " source = (SELECT p.source FROM predictions p WHERE p.id = prediction_id)"
        )
    )

    with op.batch_alter_table("outcomes", schema=None) as batch_op:
        for name, kind in COPIED.items():
            batch_op.alter_column(name, existing_type=kind, nullable=False)
        batch_op.create_index(
            batch_op.f("ix_outcomes_model_outcomes_version_outcomes_at"), ["model", "version", "at"], unique=False
        )


def downgrade() -> None:
    with op.batch_alter_table("outcomes", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_outcomes_model_outcomes_version_outcomes_at"))
        for name in reversed(COPIED):
            batch_op.drop_column(name)
