"""For a million builds: the last word of an id, and indexes for questions with two conditions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_CHUNK = 10_000


def upgrade() -> None:
    """Add the column and fill it, in the order of the primary key; then the indexes."""
    op.add_column("build", sa.Column("word", sa.String(64), nullable=False, server_default=""))
    connection = op.get_bind()
    table = sa.table("build", sa.column("id", sa.String), sa.column("word", sa.String))
    last = ""
    while True:
        query = sa.select(table.c.id).where(table.c.id > last).order_by(table.c.id).limit(_CHUNK)
        ids = list(connection.scalars(query))
        if not ids:
            break
        change = sa.update(table).where(table.c.id == sa.bindparam("known")).values(word=sa.bindparam("last_word"))
        connection.execute(change, [{"known": each, "last_word": each.rpartition("-")[2]} for each in ids])
        last = ids[-1]
    op.create_index("build_word", "build", ["word"])
    op.create_index("build_target_status", "build", ["target", "status", "started_at"])
    op.create_index("build_target_class", "build", ["target", "failure_class", "started_at"])
    if connection.dialect.name == "postgresql":
        # Prefixes are asked for as ranges of bytes; the database's own order may be that of a dictionary.
        op.execute('CREATE INDEX build_id_bytes ON build (id COLLATE "C")')
        op.execute('CREATE INDEX build_word_bytes ON build (word COLLATE "C")')


def downgrade() -> None:
    """Drop what was added."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP INDEX build_id_bytes")
        op.execute("DROP INDEX build_word_bytes")
    for name in ("build_word", "build_target_status", "build_target_class"):
        op.drop_index(name, "build")
    op.drop_column("build", "word")
