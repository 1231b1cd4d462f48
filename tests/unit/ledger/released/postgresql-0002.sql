CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.artifact (
    build_id character varying(64) NOT NULL,
    path character varying(4096) NOT NULL,
    sha256 character varying(64) NOT NULL,
    bytes bigint NOT NULL
);
CREATE TABLE public.build (
    id character varying(64) NOT NULL,
    name character varying(255) NOT NULL,
    version character varying(255) NOT NULL,
    target character varying(160) NOT NULL,
    architecture character varying(64) NOT NULL,
    status character varying(16) NOT NULL,
    failure_class character varying(32),
    failure_phase character varying(16),
    failure_brief text,
    failure_details text,
    failure_resolution text,
    retryable boolean,
    started_at character varying(32) NOT NULL,
    ended_at character varying(32),
    log_path text,
    policy character varying(255) NOT NULL,
    backend character varying(16),
    image_digest character varying(80),
    limits_in_force json NOT NULL,
    host character varying(255) NOT NULL,
    lxcbuild_version character varying(64) NOT NULL,
    request json NOT NULL,
    owner character varying(32),
    word character varying(64) DEFAULT ''::character varying NOT NULL
);
CREATE TABLE public.note (
    build_id character varying(64) NOT NULL,
    "position" integer NOT NULL,
    text text NOT NULL
);
CREATE TABLE public.phase (
    build_id character varying(64) NOT NULL,
    "position" integer NOT NULL,
    name character varying(16) NOT NULL,
    started_at character varying(32) NOT NULL,
    wall_s double precision NOT NULL,
    cpu_s double precision NOT NULL,
    peak_memory_bytes bigint NOT NULL,
    read_bytes bigint NOT NULL,
    written_bytes bigint NOT NULL,
    peak_pids integer NOT NULL,
    throttled_s double precision NOT NULL,
    oom_kills integer NOT NULL,
    pids_denied integer NOT NULL,
    peak_disk_bytes bigint NOT NULL
);
INSERT INTO public.alembic_version VALUES ('0002');
INSERT INTO public.build VALUES ('20260101-010203-abcd0123', 'six', '1.0', 'debian/bookworm', 'amd64', 'built', NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01T01:02:03.000000+00:00', '2026-01-01T01:02:04.000000+00:00', NULL, 'default', NULL, NULL, '{}', 'host', '0.1.0', '{"requirement": "six"}', NULL, 'abcd0123');
INSERT INTO public.build VALUES ('nohyphen', 'idna', '1.0', 'debian/bookworm', 'amd64', 'built', NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01T01:02:03.000000+00:00', '2026-01-01T01:02:04.000000+00:00', NULL, 'default', NULL, NULL, '{}', 'host', '0.1.0', '{"requirement": "idna"}', NULL, 'nohyphen');
INSERT INTO public.build VALUES ('20260101-010204-x-', 'a-b', '1.0', 'debian/bookworm', 'amd64', 'built', NULL, NULL, NULL, NULL, NULL, NULL, '2026-01-01T01:02:03.000000+00:00', '2026-01-01T01:02:04.000000+00:00', NULL, 'default', NULL, NULL, '{}', 'host', '0.1.0', '{"requirement": "a-b"}', NULL, '');
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.artifact
    ADD CONSTRAINT artifact_pkey PRIMARY KEY (build_id, path);
ALTER TABLE ONLY public.build
    ADD CONSTRAINT build_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.note
    ADD CONSTRAINT note_pkey PRIMARY KEY (build_id, "position");
ALTER TABLE ONLY public.phase
    ADD CONSTRAINT phase_pkey PRIMARY KEY (build_id, "position");
CREATE INDEX artifact_sha256 ON public.artifact USING btree (sha256);
CREATE INDEX build_failure_class ON public.build USING btree (failure_class, started_at);
CREATE INDEX build_id_bytes ON public.build USING btree (id COLLATE "C");
CREATE INDEX build_name ON public.build USING btree (name, started_at);
CREATE INDEX build_started_at ON public.build USING btree (started_at);
CREATE INDEX build_status ON public.build USING btree (status, started_at);
CREATE INDEX build_target ON public.build USING btree (target, started_at);
CREATE INDEX build_target_class ON public.build USING btree (target, failure_class, started_at);
CREATE INDEX build_target_status ON public.build USING btree (target, status, started_at);
CREATE INDEX build_word ON public.build USING btree (word);
CREATE INDEX build_word_bytes ON public.build USING btree (word COLLATE "C");
ALTER TABLE ONLY public.artifact
    ADD CONSTRAINT artifact_build_id_fkey FOREIGN KEY (build_id) REFERENCES public.build(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.note
    ADD CONSTRAINT note_build_id_fkey FOREIGN KEY (build_id) REFERENCES public.build(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.phase
    ADD CONSTRAINT phase_build_id_fkey FOREIGN KEY (build_id) REFERENCES public.build(id) ON DELETE CASCADE;
