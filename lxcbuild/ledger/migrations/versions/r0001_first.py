"""The first schema: build, phase, artifact, note."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "build",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("version", sa.String(255), nullable=False),
        sa.Column("target", sa.String(160), nullable=False),
        sa.Column("architecture", sa.String(64), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("failure_class", sa.String(32)),
        sa.Column("failure_phase", sa.String(16)),
        sa.Column("failure_brief", sa.Text),
        sa.Column("failure_details", sa.Text),
        sa.Column("failure_resolution", sa.Text),
        sa.Column("retryable", sa.Boolean),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.Column("ended_at", sa.String(32)),
        sa.Column("log_path", sa.Text),
        sa.Column("policy", sa.String(255), nullable=False),
        sa.Column("backend", sa.String(16)),
        sa.Column("image_digest", sa.String(80)),
        sa.Column("limits_in_force", sa.JSON, nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("lxcbuild_version", sa.String(64), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("owner", sa.String(32)),
    )
    op.create_index("build_started_at", "build", ["started_at"])
    for column in ("name", "target", "status", "failure_class"):
        op.create_index(f"build_{column}", "build", [column, "started_at"])
    op.create_table(
        "phase",
        _build_id(),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(16), nullable=False),
        sa.Column("started_at", sa.String(32), nullable=False),
        sa.Column("wall_s", sa.Float, nullable=False),
        sa.Column("cpu_s", sa.Float, nullable=False),
        sa.Column("peak_memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("read_bytes", sa.BigInteger, nullable=False),
        sa.Column("written_bytes", sa.BigInteger, nullable=False),
        sa.Column("peak_pids", sa.Integer, nullable=False),
        sa.Column("throttled_s", sa.Float, nullable=False),
        sa.Column("oom_kills", sa.Integer, nullable=False),
        sa.Column("pids_denied", sa.Integer, nullable=False),
        sa.Column("peak_disk_bytes", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "artifact",
        _build_id(),
        sa.Column("path", sa.String(4096), primary_key=True),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("artifact_sha256", "artifact", ["sha256"])
    op.create_table(
        "note",
        _build_id(),
        sa.Column("position", sa.Integer, primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
    )


def _build_id() -> sa.Column[str]:
    return sa.Column("build_id", sa.String(64), sa.ForeignKey("build.id", ondelete="CASCADE"), primary_key=True)


def downgrade() -> None:
    """Drop everything."""
    for table in ("note", "artifact", "phase", "build"):
        op.drop_table(table)
