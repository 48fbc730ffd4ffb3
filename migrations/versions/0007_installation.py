"""Which secret a database belongs to; on PostgreSQL, ids of predictions in the order of their characters."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "installation",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    _order_ids_by("C")


def downgrade() -> None:
    _order_ids_by("default")
    op.drop_table("installation")


def _order_ids_by(collation: str) -> None:
    # Else they would lie in the order of the database's language, in which no range of them is what it seems.
    if op.get_bind().dialect.name == "postgresql":
        op.alter_column("predictions", "id", type_=sa.Text(collation=collation), existing_type=sa.Text())
