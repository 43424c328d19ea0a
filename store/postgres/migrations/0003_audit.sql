-- Who did what, or was refused; in no watch and in no history.
CREATE TABLE meridian.audit (
    id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    time timestamptz NOT NULL,
    body bytea       NOT NULL
);
