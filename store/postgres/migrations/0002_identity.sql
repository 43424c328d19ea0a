-- Whose store it is, and the random suffix of its epoch: empty until the database went back the first time.
ALTER TABLE meridian.store
    ADD COLUMN epoch text NOT NULL DEFAULT '',
    ADD COLUMN role  text NOT NULL DEFAULT '',
    ADD COLUMN zone  text NOT NULL DEFAULT '';
