-- What banks have told us, for ever: the primary key is what makes a webhook safe to receive twice.
CREATE TABLE bank_events (
    bank           text NOT NULL,
    webhook_id     text NOT NULL,
    body_hash      bytea NOT NULL,          -- SHA-256 of the raw body
    type           text NOT NULL,
    reference      text NOT NULL,           -- the transfer's id, as the bank sent it
    bank_reference text NOT NULL,
    amount         bigint NOT NULL,         -- minor units
    currency       text NOT NULL,
    reason         text,
    status         text NOT NULL,
    remark         text,                    -- why it was parked, quarantined or ignored
    received_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at     timestamptz,             -- when it moved money or ended a transfer
    CONSTRAINT bank_events_pkey PRIMARY KEY (bank, webhook_id),
    CONSTRAINT bank_events_status CHECK (status IN ('processed', 'duplicate', 'parked', 'quarantined'))
);
CREATE INDEX bank_events_by_bank_reference ON bank_events (bank, bank_reference);
CREATE INDEX bank_events_parked ON bank_events (reference) WHERE status = 'parked';
CREATE INDEX bank_events_quarantined ON bank_events (received_at) WHERE status = 'quarantined';
-- One credit per movement at the bank, whatever the code above it does.
CREATE UNIQUE INDEX bank_events_one_credit ON bank_events (bank, bank_reference)
    WHERE status = 'processed' AND type = 'deposit.succeeded';

CREATE TRIGGER bank_events_are_kept BEFORE DELETE ON bank_events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER bank_events_are_never_emptied BEFORE TRUNCATE ON bank_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
