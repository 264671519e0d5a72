-- Tokens that let somebody into the web side: their hashes. See docs/web.md.

CREATE TABLE flowstone.api_token (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    roles text[] NOT NULL,
    digest bytea NOT NULL CHECK (length(digest) = 32),
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    used_at timestamptz
);

CREATE UNIQUE INDEX api_token_digest ON flowstone.api_token (digest);

CREATE INDEX api_token_newest ON flowstone.api_token (created_at, id);
