-- For a million builds: the last word of an id (what stands after its last hyphen), and indexes for two conditions at once.
ALTER TABLE build ADD COLUMN word VARCHAR(64) DEFAULT '' NOT NULL;

-- Without what it ends in that is no hyphen, an id ends where its last word begins.
UPDATE build SET word = substr(id, length(rtrim(id, replace(id, '-', ''))) + 1);

CREATE INDEX build_word ON build (word);
CREATE INDEX build_target_status ON build (target, status, started_at);
CREATE INDEX build_target_class ON build (target, failure_class, started_at);
