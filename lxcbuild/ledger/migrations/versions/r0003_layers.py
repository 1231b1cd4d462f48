"""What dependency layers did for each build."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; earlier builds have nothing in it."""
    op.add_column("build", sa.Column("layers", sa.JSON))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("build", "layers")
