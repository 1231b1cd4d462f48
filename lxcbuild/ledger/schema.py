"""The tables. A change here needs a migration below ``migrations/versions`` and a new ``HEAD`` (``revision.py``)."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

build = Table(
    "build",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("name", String(255), nullable=False),
    Column("version", String(255), nullable=False),
    Column("target", String(160), nullable=False),  # distribution/suite
    Column("architecture", String(64), nullable=False),
    Column("status", String(16), nullable=False),  # running, built, official, failed
    Column("failure_class", String(32)),
    Column("failure_phase", String(16)),
    Column("failure_brief", Text),
    Column("failure_details", Text),
    Column("failure_resolution", Text),
    Column("retryable", Boolean),
    Column("started_at", String(32), nullable=False),  # ISO 8601, UTC: sorts by time
    Column("ended_at", String(32)),
    Column("log_path", Text),
    Column("policy", String(255), nullable=False),
    Column("backend", String(16)),
    Column("image_digest", String(80)),
    Column("limits_in_force", JSON, nullable=False),
    Column("host", String(255), nullable=False),
    Column("lxcbuild_version", String(64), nullable=False),
    Column("request", JSON, nullable=False),
    Column("owner", String(32)),  # name of the lock that its process holds while it runs
    Column("word", String(64), nullable=False, server_default=""),  # what stands after the id's last hyphen
    Column("layers", JSON),  # what layers did for it (model.LayerUse); empty where it came to none
    # Every question of `history` and of the report is "the newest N where X": one index answers each, whatever the size.
    Index("build_started_at", "started_at"),
    Index("build_name", "name", "started_at"),
    Index("build_target", "target", "started_at"),
    Index("build_status", "status", "started_at"),
    Index("build_failure_class", "failure_class", "started_at"),
    Index("build_target_status", "target", "status", "started_at"),
    Index("build_target_class", "target", "failure_class", "started_at"),
    Index("build_word", "word"),
)

phase = Table(
    "phase",
    metadata,
    Column("build_id", String(64), ForeignKey("build.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("name", String(16), nullable=False),
    Column("started_at", String(32), nullable=False),
    Column("wall_s", Float, nullable=False),
    Column("cpu_s", Float, nullable=False),
    Column("peak_memory_bytes", BigInteger, nullable=False),
    Column("read_bytes", BigInteger, nullable=False),
    Column("written_bytes", BigInteger, nullable=False),
    Column("peak_pids", Integer, nullable=False),
    Column("throttled_s", Float, nullable=False),
    Column("oom_kills", Integer, nullable=False),
    Column("pids_denied", Integer, nullable=False),
    Column("peak_disk_bytes", BigInteger, nullable=False),
)

artifact = Table(
    "artifact",
    metadata,
    Column("build_id", String(64), ForeignKey("build.id", ondelete="CASCADE"), primary_key=True),
    Column("path", String(4096), primary_key=True),
    Column("sha256", String(64), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Index("artifact_sha256", "sha256"),
)

note = Table(
    "note",
    metadata,
    Column("build_id", String(64), ForeignKey("build.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("text", Text, nullable=False),
)
