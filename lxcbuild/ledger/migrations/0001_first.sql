-- The first schema. The version's table has the name that every released ledger gave it.
CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

CREATE TABLE build (
    id VARCHAR(64) NOT NULL,
    name VARCHAR(255) NOT NULL,
    version VARCHAR(255) NOT NULL,
    target VARCHAR(160) NOT NULL, -- distribution/suite
    architecture VARCHAR(64) NOT NULL,
    status VARCHAR(16) NOT NULL, -- running, built, official, failed
    failure_class VARCHAR(32),
    failure_phase VARCHAR(16),
    failure_brief TEXT,
    failure_details TEXT,
    failure_resolution TEXT,
    retryable BOOLEAN,
    started_at VARCHAR(32) NOT NULL, -- ISO 8601, UTC: sorts by time
    ended_at VARCHAR(32),
    log_path TEXT,
    policy VARCHAR(255) NOT NULL,
    backend VARCHAR(16),
    image_digest VARCHAR(80),
    limits_in_force JSON NOT NULL,
    host VARCHAR(255) NOT NULL,
    lxcbuild_version VARCHAR(64) NOT NULL,
    request JSON NOT NULL,
    owner VARCHAR(32), -- name of the lock that its process holds while it runs
    PRIMARY KEY (id)
);

-- Every question of the history and of the report is "the newest N where X": one index answers each, whatever the size.
CREATE INDEX build_started_at ON build (started_at);
CREATE INDEX build_name ON build (name, started_at);
CREATE INDEX build_target ON build (target, started_at);
CREATE INDEX build_status ON build (status, started_at);
CREATE INDEX build_failure_class ON build (failure_class, started_at);

CREATE TABLE phase (
    build_id VARCHAR(64) NOT NULL,
    position INTEGER NOT NULL,
    name VARCHAR(16) NOT NULL,
    started_at VARCHAR(32) NOT NULL,
    wall_s FLOAT NOT NULL,
    cpu_s FLOAT NOT NULL,
    peak_memory_bytes BIGINT NOT NULL,
    read_bytes BIGINT NOT NULL,
    written_bytes BIGINT NOT NULL,
    peak_pids INTEGER NOT NULL,
    throttled_s FLOAT NOT NULL,
    oom_kills INTEGER NOT NULL,
    pids_denied INTEGER NOT NULL,
    peak_disk_bytes BIGINT NOT NULL,
    PRIMARY KEY (build_id, position),
    FOREIGN KEY (build_id) REFERENCES build (id) ON DELETE CASCADE
);

CREATE TABLE artifact (
    build_id VARCHAR(64) NOT NULL,
    path VARCHAR(4096) NOT NULL,
    sha256 VARCHAR(64) NOT NULL,
    bytes BIGINT NOT NULL,
    PRIMARY KEY (build_id, path),
    FOREIGN KEY (build_id) REFERENCES build (id) ON DELETE CASCADE
);

CREATE INDEX artifact_sha256 ON artifact (sha256);

CREATE TABLE note (
    build_id VARCHAR(64) NOT NULL,
    position INTEGER NOT NULL,
    text TEXT NOT NULL,
    PRIMARY KEY (build_id, position),
    FOREIGN KEY (build_id) REFERENCES build (id) ON DELETE CASCADE
);
