-- One row: who the store is and how far it has got. Its lock is the order of commits.
CREATE TABLE meridian.store (
    one         boolean PRIMARY KEY DEFAULT true CHECK (one),
    id          text    NOT NULL,
    fingerprint text    NOT NULL,
    revision    bigint  NOT NULL DEFAULT 0,
    compacted   bigint  NOT NULL DEFAULT 0
) WITH (fillfactor = 10);

-- Current resources. The key is kind/mesh/zone/namespace/name.
CREATE TABLE meridian.resources (
    key  text COLLATE "C" PRIMARY KEY,
    body bytea NOT NULL
);

-- The change log: one row for each change of a revision.
CREATE TABLE meridian.log (
    revision bigint      NOT NULL,
    position int         NOT NULL,
    key      text COLLATE "C" NOT NULL,
    time     timestamptz NOT NULL,
    actor    text        NOT NULL,
    body     bytea       NOT NULL,
    PRIMARY KEY (revision, position)
);
CREATE INDEX log_key ON meridian.log (key, revision);

-- Revision of the last change of spec or labels in a kind of a mesh; mesh '' is the kind in every mesh.
CREATE TABLE meridian.kinds (
    kind     text COLLATE "C" NOT NULL,
    mesh     text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    PRIMARY KEY (kind, mesh)
) WITH (fillfactor = 50);

-- Named values that transactions write beside resources.
CREATE TABLE meridian.meta (
    name  text COLLATE "C" PRIMARY KEY,
    value bytea NOT NULL
) WITH (fillfactor = 50);
