-- The books again, smaller and with room for everything a wallet's money can do. A transfer took 530 bytes with its
-- entries and indexes before and takes 405 after: wallets have numbers inside the database, an entry takes its time from
-- its transfer, and says nothing about locked money where there is none. docs/decisions.md has the parts.

-- Nothing may be written between the copies and the new tables.
LOCK TABLE wallets, transfers, entries, bank_events IN ACCESS EXCLUSIVE MODE;
CREATE TABLE wallets_before AS SELECT *, row_number() OVER (ORDER BY updated_at, id) AS number FROM wallets;
CREATE TABLE transfers_before AS SELECT * FROM transfers;
CREATE TABLE entries_before AS SELECT * FROM entries;
DROP TABLE wallets, transfers, entries CASCADE;  -- with the functions that name them; they are all made anew

CREATE TYPE entry_tag AS ENUM ('closing', 'folded');
-- 2^53 - 1: every amount, and below every balance, is exact in every JSON reader.
CREATE DOMAIN minor_units AS bigint CONSTRAINT amount_in_bounds CHECK (VALUE BETWEEN 1 AND 9007199254740991);
CREATE DOMAIN currency_code AS text CONSTRAINT currency_shape CHECK (VALUE ~ '^[A-Z]{3}$');

CREATE TABLE wallets (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    available      bigint NOT NULL DEFAULT 0,  -- minor units
    locked         bigint NOT NULL DEFAULT 0,  -- minor units
    version        bigint NOT NULL DEFAULT 0,  -- the number of entries
    updated_at     timestamptz NOT NULL DEFAULT date_trunc('milliseconds', clock_timestamp()),
    person_id      uuid,
    party          text,                       -- 'bank:<name>': whose wallet it is when it is no person's
    stripe         smallint,                   -- a party has several rows per currency, so that its transfers do not queue
    -- What was paid out of it, for the limits: on one day (of UTC), and on the 29 days before that one. A day that is
    -- over moves to wallet_days.
    day            date,
    day_amount     numeric NOT NULL DEFAULT 0, -- minor units; sums of many amounts have no bound
    day_count      bigint NOT NULL DEFAULT 0,
    earlier_amount numeric NOT NULL DEFAULT 0, -- minor units
    earlier_count  bigint NOT NULL DEFAULT 0,
    currency       currency_code NOT NULL,
    -- An operator's switches.
    receiving      boolean NOT NULL DEFAULT false,  -- takes credits without locking its row: see arrivals
    has_received   boolean NOT NULL DEFAULT false,  -- was receiving once, so that there may be arrivals
    debit_frozen   boolean NOT NULL DEFAULT false,
    credit_frozen  boolean NOT NULL DEFAULT false,
    CONSTRAINT wallets_one_per_person UNIQUE (person_id, currency),
    CONSTRAINT wallets_one_per_stripe UNIQUE (party, currency, stripe),
    CONSTRAINT wallets_in_bounds CHECK (party IS NOT NULL OR (least(available, locked) >= 0
                                                              AND available + locked <= 9007199254740991))
) WITH (fillfactor = 70);

-- No foreign keys from here on: checking one takes a lock on a hot row before its turn. The audit proves them.
CREATE TABLE transfers (
    id              uuid PRIMARY KEY,          -- SHA-256 of (person, route, Idempotency-Key): the key names the transfer
    from_wallet     bigint NOT NULL,
    to_wallet       bigint NOT NULL,
    amount          minor_units NOT NULL,      -- of the currency
    created_at      timestamptz NOT NULL,
    completed_at    timestamptz,
    from_seq        bigint,                    -- this transfer's latest entry on the paying wallet, and
    to_seq          bigint,                    -- on the receiving one; null where it has none yet, or one that was folded
    kind            transfer_kind NOT NULL,
    status          transfer_status NOT NULL,
    currency        text NOT NULL,
    asked           text NOT NULL,             -- the other side as the request named it: a handle, a bank; of a refund its amount
    note            text,
    expires_at      timestamptz,
    captured_amount minor_units,               -- of a hold that was captured
    resolved_by     uuid,                      -- what captured or voided a hold: named like a transfer, by its key
    resolved_asked  text,                      -- and what it asked for
    refund_of       uuid,
    account         text,                      -- where a withdrawal goes
    failure_code    text,
    failure_limit   json,                      -- which limit: {"name", "used", "cap", "resets_at"}
    payment_url     text,
    CONSTRAINT transfers_two_sides CHECK (from_wallet <> to_wallet)
);
CREATE INDEX transfers_open ON transfers (kind, coalesce(expires_at, created_at)) WHERE status = 'Processing';
CREATE INDEX transfers_refunds ON transfers (refund_of) WHERE refund_of IS NOT NULL;
CREATE UNIQUE INDEX transfers_resolved_by_once ON transfers (resolved_by) WHERE resolved_by IS NOT NULL;
-- For the audit of what is new. BRIN keeps a few bytes per hundred pages.
CREATE INDEX transfers_made ON transfers USING brin (created_at) WITH (pages_per_range = 32, autosummarize = on);
CREATE INDEX transfers_ended ON transfers USING brin (completed_at) WITH (pages_per_range = 32, autosummarize = on);

-- One line on one wallet. Read them as `entries`, the view below.
CREATE TABLE entry_rows (
    wallet_id       bigint NOT NULL,
    transfer_id     uuid NOT NULL,
    seq             bigint NOT NULL,           -- the wallet's version after this entry
    available_delta bigint NOT NULL,
    available_after bigint NOT NULL,
    locked_delta    bigint,                    -- null for 0, here and in the next: most wallets lock nothing
    locked_after    bigint,
    tag             entry_tag,                 -- closing: written when the transfer ended, not when it was made
    CONSTRAINT entries_pkey PRIMARY KEY (wallet_id, seq)
);
CREATE INDEX entries_folded ON entry_rows (transfer_id) WHERE tag = 'folded';

-- opening: written when the transfer was made; what a history lists. A bank's wallet has only the ends of its transfers.
CREATE VIEW entries AS
SELECT e.wallet_id, e.seq, e.transfer_id, e.available_delta, coalesce(e.locked_delta, 0) AS locked_delta,
       e.available_after, coalesce(e.locked_after, 0) AS locked_after,
       e.tag IS DISTINCT FROM 'closing' AS opening,
       CASE WHEN e.tag = 'closing' THEN t.completed_at ELSE t.created_at END AS created_at
  FROM entry_rows e LEFT JOIN transfers t ON t.id = e.transfer_id;

-- Credits to a receiving wallet that are not entries yet. Whoever next locks that wallet folds them in, in this order.
CREATE TABLE arrivals (
    wallet_id   bigint NOT NULL,
    number      bigint GENERATED ALWAYS AS IDENTITY,
    transfer_id uuid NOT NULL,
    amount      bigint NOT NULL,               -- minor units; 0 for a hold
    arrived_at  timestamptz NOT NULL,
    CONSTRAINT arrivals_pkey PRIMARY KEY (wallet_id, number),
    CONSTRAINT arrivals_amount CHECK (amount >= 0)
);

-- What was paid out of a wallet on days that are over.
CREATE TABLE wallet_days (
    wallet_id bigint NOT NULL,
    day       date NOT NULL,
    amount    numeric NOT NULL,                -- minor units
    count     bigint NOT NULL,
    CONSTRAINT wallet_days_pkey PRIMARY KEY (wallet_id, day),
    CONSTRAINT wallet_days_paid_out CHECK (amount >= 0 AND count >= 0)
);

-- What may be paid out of a person's wallet, per currency. Null, or no row, is no limit. Amounts in minor units.
CREATE TABLE limits (
    currency           currency_code PRIMARY KEY,
    payment            bigint,                 -- one payment
    day_amount         bigint,                 -- a day of UTC
    day_count          bigint,
    month_amount       bigint,                 -- thirty days, today included
    month_count        bigint,
    new_recipient      bigint,                 -- the first payment to somebody
    new_account        bigint,                 -- a day, while the person's account is new
    new_account_days   integer,
    CONSTRAINT limits_caps CHECK (least(payment, day_amount, day_count, month_amount, month_count, new_recipient, new_account,
                                        new_account_days) >= 0),
    CONSTRAINT limits_new_account CHECK ((new_account IS NULL) = (new_account_days IS NULL))
);

-- Who has been paid from which wallet. Kept while a currency limits the first payment.
CREATE TABLE payees (
    from_wallet bigint NOT NULL,
    to_wallet   bigint NOT NULL,
    CONSTRAINT payees_pkey PRIMARY KEY (from_wallet, to_wallet)
);

-- One row per batch: what was asked, and what became of each item.
CREATE TABLE batches (
    id         uuid PRIMARY KEY,               -- named by its key, like a transfer
    asked      bytea NOT NULL,                 -- SHA-256 of the request
    refused    boolean NOT NULL,               -- all or none, and none
    outcomes   json NOT NULL,                  -- [{"id", "code", "limit"}], item by item; id null for what became no transfer
    created_at timestamptz NOT NULL
);

-- What the audits found.
CREATE TABLE audits (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scope       text NOT NULL,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz NOT NULL,
    checked     json NOT NULL,                 -- how many of what
    differences json NOT NULL,                 -- [{"check", "wallet" | "transfer", ...}]
    CONSTRAINT audits_scope CHECK (scope IN ('recent', 'full'))
);

INSERT INTO wallets (id, available, locked, version, updated_at, person_id, party, stripe, currency) OVERRIDING SYSTEM VALUE
SELECT number, available, locked, version, updated_at, person_id, party, stripe, currency FROM wallets_before;
SELECT setval(pg_get_serial_sequence('wallets', 'id'), (SELECT coalesce(max(id), 0) + 1 FROM wallets), false);
INSERT INTO transfers (id, from_wallet, to_wallet, amount, created_at, completed_at, from_seq, to_seq, kind, status, currency,
                       asked, note, expires_at, failure_code, payment_url)
SELECT t.id, f.number, o.number, t.amount, t.created_at, t.completed_at, t.from_seq, t.to_seq, t.kind, t.status, t.currency,
       t.asked, t.note, t.expires_at, t.failure_code, t.payment_url
  FROM transfers_before t JOIN wallets_before f ON f.id = t.from_wallet JOIN wallets_before o ON o.id = t.to_wallet;
INSERT INTO entry_rows
SELECT w.number, e.transfer_id, e.seq, e.available_delta, e.available_after, nullif(e.locked_delta, 0), nullif(e.locked_after, 0),
       CASE WHEN NOT e.opening OR w.party IS NOT NULL THEN 'closing'::entry_tag END
  FROM entries_before e JOIN wallets_before w ON w.id = e.wallet_id ORDER BY e.created_at, w.number, e.seq;
-- What was paid out so far counts, as everything from now on will.
INSERT INTO wallet_days
SELECT t.from_wallet, (t.created_at AT TIME ZONE 'UTC')::date, sum(t.amount), count(*)
  FROM transfers t WHERE t.kind = 'transfer' AND t.status = 'Success' GROUP BY 1, 2;
UPDATE wallets w SET day = d.day, day_amount = d.amount, day_count = d.count, earlier_amount = d.earlier_amount,
       earlier_count = d.earlier_count
  FROM (SELECT DISTINCT ON (a.wallet_id) a.*,
               (SELECT coalesce(sum(b.amount), 0) FROM wallet_days b
                 WHERE b.wallet_id = a.wallet_id AND b.day BETWEEN a.day - 29 AND a.day - 1) AS earlier_amount,
               (SELECT coalesce(sum(b.count), 0) FROM wallet_days b
                 WHERE b.wallet_id = a.wallet_id AND b.day BETWEEN a.day - 29 AND a.day - 1) AS earlier_count
          FROM wallet_days a ORDER BY a.wallet_id, a.day DESC) d
 WHERE w.id = d.wallet_id;
DELETE FROM wallet_days d USING wallets w WHERE w.id = d.wallet_id AND w.day = d.day;
DROP TABLE wallets_before, transfers_before, entries_before;

-- Rules of a row that no payment changes, or that only their kind has. They are triggers, since PostgreSQL reads the stored tree
-- of every CHECK anew in every statement; docs/decisions.md has the figures.
CREATE FUNCTION check_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_broken text := CASE
        WHEN (NEW.status = 'Processing') <> (NEW.completed_at IS NULL) THEN 'transfers_end'
        WHEN (NEW.status = 'Failure') <> (NEW.failure_code IS NOT NULL) THEN 'transfers_failure'
        WHEN (NEW.kind = 'refund') <> (NEW.refund_of IS NOT NULL) THEN 'transfers_refund'
        WHEN (NEW.kind = 'withdrawal') <> (NEW.account IS NOT NULL) THEN 'transfers_account'
        WHEN NEW.captured_amount IS NOT NULL AND (NEW.captured_amount > NEW.amount OR NEW.status <> 'Success'
                                                  OR NEW.kind <> 'transfer') THEN 'transfers_captured' END;
BEGIN
    IF v_broken IS NOT NULL THEN
        RAISE EXCEPTION 'transfer % breaks the rule %', NEW.id, v_broken USING ERRCODE = 'check_violation', CONSTRAINT = v_broken;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER transfers_stay_sound BEFORE INSERT OR UPDATE ON transfers FOR EACH ROW EXECUTE FUNCTION check_transfer();

CREATE FUNCTION check_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF num_nonnulls(NEW.person_id, NEW.party) <> 1 OR (NEW.party IS NULL) <> (NEW.stripe IS NULL) THEN
        RAISE EXCEPTION 'a wallet has one owner' USING ERRCODE = 'check_violation', CONSTRAINT = 'wallets_one_owner';
    END IF;
    RETURN NULL;
END $$;
-- AFTER, since a BEFORE UPDATE trigger makes every update of the table fetch its row once more.
CREATE TRIGGER wallets_have_one_owner AFTER INSERT OR UPDATE OF person_id, party, stripe ON wallets
    FOR EACH ROW EXECUTE FUNCTION check_owner();

CREATE TRIGGER entries_are_append_only BEFORE UPDATE OR DELETE ON entry_rows
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entries_are_never_emptied BEFORE TRUNCATE ON entry_rows
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
                        OLD.payment_url, OLD.created_at, OLD.expires_at, OLD.refund_of, OLD.account)
        IS DISTINCT FROM (NEW.id, NEW.from_wallet, NEW.to_wallet, NEW.amount, NEW.currency, NEW.kind, NEW.asked, NEW.note,
                          NEW.payment_url, NEW.created_at, NEW.expires_at, NEW.refund_of, NEW.account))
    EXECUTE FUNCTION refuse_change();
-- An arrival becomes an entry as it is, or not at all.
CREATE TRIGGER arrivals_keep_their_terms BEFORE UPDATE ON arrivals
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER arrivals_are_never_emptied BEFORE TRUNCATE ON arrivals
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER batches_are_kept BEFORE UPDATE OR DELETE ON batches
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audits_are_kept BEFORE UPDATE OR DELETE ON audits
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- One credit, and one payout, per movement at the bank.
CREATE UNIQUE INDEX bank_events_one_payout ON bank_events (bank, bank_reference)
    WHERE status = 'processed' AND type = 'withdrawal.succeeded';
-- From a transfer to the bank's event that ended it.
CREATE INDEX bank_events_by_reference ON bank_events (reference) WHERE status = 'processed';
