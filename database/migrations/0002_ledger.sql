-- Wallets, transfers and entries: the books.

CREATE TYPE transfer_kind AS ENUM ('deposit', 'withdrawal', 'transfer', 'refund');
CREATE TYPE transfer_status AS ENUM ('Processing', 'Success', 'Failure');

CREATE TABLE wallets (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    person_id  uuid,
    party      text,                        -- 'bank:<name>': whose wallet it is when it is no person's
    stripe     smallint,                    -- a party has several rows per currency, so that its transfers do not queue
    currency   text NOT NULL,
    available  bigint NOT NULL DEFAULT 0,   -- minor units
    locked     bigint NOT NULL DEFAULT 0,   -- minor units
    version    bigint NOT NULL DEFAULT 0,   -- the number of entries
    updated_at timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
    CONSTRAINT wallets_one_per_person UNIQUE (person_id, currency),
    CONSTRAINT wallets_one_per_stripe UNIQUE (party, currency, stripe),
    CONSTRAINT wallets_one_owner CHECK ((person_id IS NULL) <> (party IS NULL) AND (party IS NULL) = (stripe IS NULL)),
    CONSTRAINT wallets_currency CHECK (currency ~ '^[A-Z]{3}$'),
    CONSTRAINT wallets_never_negative CHECK (person_id IS NULL OR (available >= 0 AND locked >= 0)),
    -- 2^53 - 1: every balance is exact in every JSON reader.
    CONSTRAINT wallets_exact_in_json CHECK (person_id IS NULL OR available + locked <= 9007199254740991)
) WITH (fillfactor = 70);

-- No foreign keys from here on: checking one takes a lock on a hot row before its turn. The audit proves them.
CREATE TABLE transfers (
    id           uuid PRIMARY KEY,          -- SHA-256 of (person, route, Idempotency-Key): the key names the transfer
    from_wallet  uuid NOT NULL,
    to_wallet    uuid NOT NULL,
    amount       bigint NOT NULL,           -- minor units of the currency
    created_at   timestamptz NOT NULL,
    completed_at timestamptz,
    expires_at   timestamptz,
    from_seq     bigint,                    -- this transfer's latest entry on the paying wallet, and
    to_seq       bigint,                    -- on the receiving one; null where it has none yet
    kind         transfer_kind NOT NULL,
    status       transfer_status NOT NULL,
    currency     text NOT NULL,
    asked        text NOT NULL,             -- the other side as the request named it: a handle, a bank
    note         text,
    failure_code text,
    payment_url  text,
    CONSTRAINT transfers_amount CHECK (amount BETWEEN 1 AND 9007199254740991),
    CONSTRAINT transfers_two_sides CHECK (from_wallet <> to_wallet),
    CONSTRAINT transfers_end CHECK ((status = 'Processing') = (completed_at IS NULL)),
    CONSTRAINT transfers_failure CHECK ((status = 'Failure') = (failure_code IS NOT NULL))
);
CREATE INDEX transfers_open ON transfers (created_at) WHERE status = 'Processing';

CREATE TABLE entries (
    wallet_id       uuid NOT NULL,
    transfer_id     uuid NOT NULL,
    seq             bigint NOT NULL,        -- the wallet's version after this entry
    available_delta bigint NOT NULL,
    locked_delta    bigint NOT NULL,
    available_after bigint NOT NULL,
    locked_after    bigint NOT NULL,
    created_at      timestamptz NOT NULL,
    opening         boolean NOT NULL,       -- the transfer's first entry on this wallet: what the history lists
    CONSTRAINT entries_pkey PRIMARY KEY (wallet_id, seq),
    CONSTRAINT entries_seq CHECK (seq >= 1)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% of % is not possible: the books are append-only', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER entries_are_append_only BEFORE UPDATE OR DELETE ON entries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entries_are_never_emptied BEFORE TRUNCATE ON entries
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfers_are_never_deleted BEFORE DELETE ON transfers
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfers_are_never_emptied BEFORE TRUNCATE ON transfers
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
-- Success and Failure are final.
CREATE TRIGGER transfers_end_once BEFORE UPDATE ON transfers
    FOR EACH ROW WHEN (OLD.status <> 'Processing') EXECUTE FUNCTION refuse_change();
-- While it runs, a transfer may change only its state.
CREATE TRIGGER transfers_keep_their_terms BEFORE UPDATE ON transfers
    FOR EACH ROW WHEN ((OLD.id, OLD.from_wallet, OLD.to_wallet, OLD.amount, OLD.currency, OLD.kind, OLD.asked, OLD.note,
                        OLD.payment_url, OLD.created_at, OLD.expires_at)
        IS DISTINCT FROM (NEW.id, NEW.from_wallet, NEW.to_wallet, NEW.amount, NEW.currency, NEW.kind, NEW.asked, NEW.note,
                          NEW.payment_url, NEW.created_at, NEW.expires_at))
    EXECUTE FUNCTION refuse_change();
