-- One line on one wallet, whose row the caller has locked: the only place where a balance changes. Amounts in minor units.
-- Returns the wallet as it is afterwards.
CREATE OR REPLACE FUNCTION write_entry(w wallets, p_transfer uuid, p_opening boolean, p_at timestamptz,
                                       p_available_delta bigint, p_locked_delta bigint)
RETURNS wallets LANGUAGE plpgsql AS $$
BEGIN
    w.available := w.available + p_available_delta;
    w.locked := w.locked + p_locked_delta;
    w.version := w.version + 1;
    w.updated_at := p_at;
    UPDATE wallets SET available = w.available, locked = w.locked, version = w.version, updated_at = w.updated_at
     WHERE id = w.id;
    INSERT INTO entries (wallet_id, transfer_id, seq, available_delta, locked_delta, available_after, locked_after,
                         created_at, opening)
    VALUES (w.id, p_transfer, w.version, p_available_delta, p_locked_delta, w.available, w.locked, p_at, p_opening);
    RETURN w;
END $$;

-- Whether a person's wallet can take an amount more: every balance stays exact in every JSON reader.
CREATE OR REPLACE FUNCTION has_room(w wallets, p_amount bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT w.available + w.locked <= 9007199254740991 - p_amount
$$;

-- What a known key gets: the transaction it named, if this is the same request, else a refusal.
-- The comparison is with the request as it was made, so a recipient who has since changed their handle breaks nothing.
CREATE OR REPLACE FUNCTION replay(t transfers, p_viewer uuid, p_asked text, p_amount bigint, p_currency text, p_note text)
RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT CASE WHEN (t.asked, t.amount, t.currency, t.note) IS DISTINCT FROM (p_asked, p_amount, p_currency, p_note)
            THEN json_build_object('outcome', 'idempotency_key_reused')
            ELSE json_build_object('outcome', 'replayed', 'transaction', transaction_seen_from(t, p_viewer),
                                   'changed', changed_wallets(t.from_wallet, t.to_wallet)) END
    );
END $$;

-- Moves money from one person to another at once, or records why not.
-- -> {"outcome": "made" | "replayed", "transaction": {...}, "changed": [{"person_id", "wallet"}]}
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "recipient_not_found" | "self_transfer" | "currency_mismatch"}
--  | {"outcome": "rate_limited", "retry_after": seconds}: too many handles that nobody has
CREATE OR REPLACE FUNCTION make_transfer(p_person uuid, p_session uuid, p_id uuid, p_to text, p_amount bigint,
                                         p_currency text, p_note text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    w wallets;
    payer wallets;
    payee wallets;
    recipient people;
BEGIN
    -- 1. Known key? Most replays end here, without a lock.
    SELECT * INTO t FROM transfers WHERE id = p_id;
    IF NOT FOUND THEN
        -- 2. Who pays whom; then both rows, in the one order that everything here locks in: two people who pay each
        --    other at the same moment wait, and never deadlock.
        SELECT p.id, p.name, o.id, m.id INTO recipient.id, recipient.name, payee.id, payer.id
          FROM (SELECT 1) one
          LEFT JOIN people p ON p.handle = p_to
          LEFT JOIN wallets o ON o.person_id = p.id AND o.currency = p_currency
          LEFT JOIN wallets m ON m.person_id = p_person AND m.currency = p_currency;
        FOR w IN SELECT * FROM wallets WHERE id IN (payer.id, payee.id) ORDER BY id FOR NO KEY UPDATE LOOP
            IF w.id = payer.id THEN payer := w; ELSE payee := w; END IF;
        END LOOP;
        -- 3. Known key now? A twin of this request may have held the locks until a moment ago.
        SELECT * INTO t FROM transfers WHERE id = p_id;
    END IF;

    -- 4. Decide, on what the locks hold still.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF t.id IS NOT NULL THEN
        RETURN replay(t, t.from_wallet, p_to, p_amount, p_currency, p_note);
    ELSIF recipient.id IS NULL THEN
        RETURN recipient_missed(p_person);
    ELSIF recipient.id = p_person THEN
        RETURN json_build_object('outcome', 'self_transfer');
    ELSIF payer.id IS NULL OR payee.id IS NULL THEN
        RETURN json_build_object('outcome', 'currency_mismatch');
    END IF;
    t.id := p_id; t.from_wallet := payer.id; t.to_wallet := payee.id;
    t.kind := 'transfer'; t.amount := p_amount; t.currency := p_currency; t.asked := p_to; t.note := p_note;
    t.created_at := now_ms(); t.completed_at := t.created_at;
    t.status := 'Success';
    t.from_seq := payer.version + 1;
    IF payer.available < p_amount THEN
        t.status := 'Failure'; t.failure_code := 'insufficient_funds';
    ELSIF NOT has_room(payee, p_amount) THEN
        t.status := 'Failure'; t.failure_code := 'limit_exceeded';
    ELSE
        t.to_seq := payee.version + 1;
    END IF;

    -- 5. Write. The insert that finds its key taken belongs to a twin over other wallets: same key, other request.
    INSERT INTO transfers VALUES (t.*) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'idempotency_key_reused');
    END IF;
    IF t.status = 'Failure' THEN
        payer := write_entry(payer, p_id, true, t.created_at, 0, 0);
    ELSE
        payer := write_entry(payer, p_id, true, t.created_at, -p_amount, 0);
        payee := write_entry(payee, p_id, true, t.created_at, p_amount, 0);
    END IF;
    RETURN json_build_object('outcome', 'made',
        'transaction', transaction_view(t, 'out', counterparty_view(NULL, p_to, recipient.name, t.status), payer.available,
                                        payer.version),
        'changed', CASE t.status WHEN 'Success' THEN json_build_array(change_view(payer), change_view(payee))
                                 ELSE json_build_array(change_view(payer)) END);
END $$;
GRANT EXECUTE ON FUNCTION make_transfer(uuid, uuid, uuid, text, bigint, text, text) TO okane_app;
