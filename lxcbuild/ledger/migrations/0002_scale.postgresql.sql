-- Prefixes are asked for as ranges of bytes; the database's own order may be that of a dictionary.
CREATE INDEX build_id_bytes ON build (id COLLATE "C");
CREATE INDEX build_word_bytes ON build (word COLLATE "C");
