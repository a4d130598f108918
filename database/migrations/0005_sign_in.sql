-- Signing in by an OpenID provider, passwords that are set anew, and where a session came from.

-- A keyed mark of the network that a session was started from: an owner's usual networks are not locked out by strangers.
ALTER TABLE sessions ADD COLUMN source text NOT NULL DEFAULT '';
-- And the one that asked for a code: guesses from elsewhere do not use up its five tries.
ALTER TABLE sign_ups ADD COLUMN source text NOT NULL DEFAULT '';

-- Who a provider's person is here. The provider's own name for them is the key, never their e-mail.
CREATE TABLE identities (
    issuer    text NOT NULL,
    subject   text NOT NULL,
    person_id uuid NOT NULL CONSTRAINT identities_person REFERENCES people (id),
    linked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (issuer, subject),
    CONSTRAINT identities_one_of_an_issuer UNIQUE (person_id, issuer),
    CONSTRAINT identities_subject CHECK (length(subject) BETWEEN 1 AND 255)
);

-- A round through a provider that has come back: its state cannot come again, and its code, once, gives tokens.
CREATE TABLE provider_rounds (
    state_hash bytea PRIMARY KEY,
    code_hash  bytea,                    -- null: the round ended without a person
    challenge  text NOT NULL DEFAULT '', -- the front end's own (RFC 7636, S256); its verifier must come with the code
    person_id  uuid CONSTRAINT provider_rounds_person REFERENCES people (id),
    ended_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    used_at    timestamptz,
    session_id uuid,                     -- that the code was exchanged for
    CONSTRAINT provider_rounds_code_once UNIQUE (code_hash),
    CONSTRAINT provider_rounds_whole CHECK ((code_hash IS NULL) = (person_id IS NULL))
);
CREATE INDEX provider_rounds_over ON provider_rounds (ended_at);

-- A wish for a new password, for known and unknown addresses alike.
CREATE TABLE password_resets (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email      text NOT NULL,
    code_hash  bytea NOT NULL,
    source     text NOT NULL,
    tries      smallint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL,
    CONSTRAINT password_resets_tries CHECK (tries BETWEEN 0 AND 5)
);
CREATE INDEX password_resets_by_email ON password_resets (email, id DESC);

-- What is over is swept by these.
CREATE INDEX password_resets_over ON password_resets (expires_at);
CREATE INDEX sign_ups_over ON sign_ups (expires_at);
CREATE INDEX budgets_over ON budgets (started_at);
CREATE INDEX sessions_over ON sessions (expires_at);
CREATE INDEX refresh_tokens_by_session ON refresh_tokens (session_id);
