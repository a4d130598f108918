-- People, how they sign in, and what they may still spend of a rate budget.
-- The schema okane, its owner and the role okane_app exist already: migrate.py makes them.

-- Whatever is created here is nobody's but the owner's until it is granted by name.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

CREATE TABLE people (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    email         text NOT NULL,
    name          text NOT NULL,
    handle        text NOT NULL,
    password_hash text,
    version       bigint NOT NULL DEFAULT 1,
    created_at    timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
    active_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT people_email_once UNIQUE (email),
    CONSTRAINT people_handle_once UNIQUE (handle),
    CONSTRAINT people_handle_shape CHECK (handle ~ '^[a-z][a-z0-9_]{2,29}$'),
    CONSTRAINT people_email_lower CHECK (email = lower(email) AND length(email) <= 254)
);
-- The cache warmer walks people in this order.
CREATE INDEX people_recently_active ON people (active_at DESC, id DESC);

-- A sign-up that has not proved its e-mail. Each attempt keeps its own name, password and code, so that a stranger
-- who signs up with somebody's address cannot put their password behind the code of the owner's own sign-up.
CREATE TABLE sign_ups (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email         text NOT NULL,
    name          text NOT NULL,
    handles       text[] NOT NULL,             -- to try, in this order
    password_hash text NOT NULL,
    code_hash     bytea NOT NULL,
    tries         smallint NOT NULL DEFAULT 0,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at    timestamptz NOT NULL,
    CONSTRAINT sign_ups_tries CHECK (tries BETWEEN 0 AND 5)
);
CREATE INDEX sign_ups_by_email ON sign_ups (email, id DESC);

CREATE TABLE sessions (
    id           uuid PRIMARY KEY,
    person_id    uuid NOT NULL CONSTRAINT sessions_person REFERENCES people (id),
    device       text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    ended_at     timestamptz
);
CREATE INDEX sessions_by_person ON sessions (person_id);
CREATE INDEX sessions_ended ON sessions (ended_at) WHERE ended_at IS NOT NULL;

-- One row per refresh token ever handed out in a session: the live one has used_at null.
CREATE TABLE refresh_tokens (
    token_hash       bytea PRIMARY KEY,
    session_id       uuid NOT NULL CONSTRAINT refresh_tokens_session REFERENCES sessions (id),
    expires_at       timestamptz NOT NULL,
    used_at          timestamptz,
    successor_hash   bytea,
    -- The successor, readable only with the token it replaces: what makes the ten seconds of grace possible
    -- without a usable token at rest.
    successor_sealed bytea,
    CONSTRAINT refresh_tokens_used CHECK ((used_at IS NULL) = (successor_hash IS NULL)
                                      AND (used_at IS NULL) = (successor_sealed IS NULL))
);

-- What somebody has spent of a rate budget in its current window.
CREATE TABLE budgets (
    key        text PRIMARY KEY,
    started_at timestamptz NOT NULL,
    spent      integer NOT NULL
);

-- Where a scheduled task stopped.
CREATE TABLE marks (
    name  text PRIMARY KEY,
    value json NOT NULL
);
