"""Rows of the audit trail are chained by digests; those that are there are chained when the next one comes."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("audit_records", sa.Column("digest", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("audit_records", "digest")
