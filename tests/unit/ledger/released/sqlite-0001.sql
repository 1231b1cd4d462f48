BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL,
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE artifact (
	build_id VARCHAR(64) NOT NULL,
	path VARCHAR(4096) NOT NULL,
	sha256 VARCHAR(64) NOT NULL,
	bytes BIGINT NOT NULL,
	PRIMARY KEY (build_id, path),
	FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE CASCADE
);
CREATE TABLE build (
	id VARCHAR(64) NOT NULL,
	name VARCHAR(255) NOT NULL,
	version VARCHAR(255) NOT NULL,
	target VARCHAR(160) NOT NULL,
	architecture VARCHAR(64) NOT NULL,
	status VARCHAR(16) NOT NULL,
	failure_class VARCHAR(32),
	failure_phase VARCHAR(16),
	failure_brief TEXT,
	failure_details TEXT,
	failure_resolution TEXT,
	retryable BOOLEAN,
	started_at VARCHAR(32) NOT NULL,
	ended_at VARCHAR(32),
	log_path TEXT,
	policy VARCHAR(255) NOT NULL,
	backend VARCHAR(16),
	image_digest VARCHAR(80),
	limits_in_force JSON NOT NULL,
	host VARCHAR(255) NOT NULL,
	lxcbuild_version VARCHAR(64) NOT NULL,
	request JSON NOT NULL,
	owner VARCHAR(32),
	PRIMARY KEY (id)
);
INSERT INTO "build" VALUES('20260101-010203-abcd0123','six','1.0','debian/bookworm','amd64','built',NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-01T01:02:03.000000+00:00','2026-01-01T01:02:04.000000+00:00',NULL,'default',NULL,NULL,'{}','host','0.1.0','{"requirement": "six"}',NULL);
INSERT INTO "build" VALUES('nohyphen','idna','1.0','debian/bookworm','amd64','built',NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-01T01:02:03.000000+00:00','2026-01-01T01:02:04.000000+00:00',NULL,'default',NULL,NULL,'{}','host','0.1.0','{"requirement": "idna"}',NULL);
INSERT INTO "build" VALUES('20260101-010204-x-','a-b','1.0','debian/bookworm','amd64','built',NULL,NULL,NULL,NULL,NULL,NULL,'2026-01-01T01:02:03.000000+00:00','2026-01-01T01:02:04.000000+00:00',NULL,'default',NULL,NULL,'{}','host','0.1.0','{"requirement": "a-b"}',NULL);
CREATE TABLE note (
	build_id VARCHAR(64) NOT NULL,
	position INTEGER NOT NULL,
	text TEXT NOT NULL,
	PRIMARY KEY (build_id, position),
	FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE CASCADE
);
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
	FOREIGN KEY(build_id) REFERENCES build (id) ON DELETE CASCADE
);
CREATE INDEX build_started_at ON build (started_at);
CREATE INDEX build_name ON build (name, started_at);
CREATE INDEX build_target ON build (target, started_at);
CREATE INDEX build_status ON build (status, started_at);
CREATE INDEX build_failure_class ON build (failure_class, started_at);
CREATE INDEX artifact_sha256 ON artifact (sha256);
COMMIT;
