-- What a known key gets: the transaction it named, if this is the same request, else a refusal.
-- The comparison is with the request as it was made, so a recipient who has since changed their handle breaks nothing.
CREATE OR REPLACE FUNCTION replay(t transfers, p_viewer uuid, p_asked text, p_amount bigint, p_currency text, p_note text)
RETURNS json LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN (t.asked, t.amount, t.currency, t.note) IS DISTINCT FROM (p_asked, p_amount, p_currency, p_note)
        THEN json_build_object('outcome', 'idempotency_key_reused')
        ELSE json_build_object('outcome', 'replayed', 'transaction', transaction_view(t, p_viewer),
                               'changed', changed_wallets(t.from_wallet, t.to_wallet)) END
$$;

-- Moves money from one person to another at once, or records why not.
-- -> {"outcome": "made" | "replayed", "transaction": {...}, "changed": [{"person_id", "wallet"}]}
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "recipient_not_found" | "self_transfer" | "currency_mismatch"}
CREATE OR REPLACE FUNCTION make_transfer(p_person uuid, p_session uuid, p_id uuid, p_to text, p_amount bigint,
                                         p_currency text, p_note text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER SET search_path = okane, pg_temp AS $$
DECLARE
    t transfers;
    payer wallets;
    payee wallets;
    w wallets;
    v_payee_person uuid;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;

    -- 1. Known key? Most replays end here, without a lock.
    SELECT * INTO t FROM transfers WHERE id = p_id;
    IF FOUND THEN
        RETURN replay(t, t.from_wallet, p_to, p_amount, p_currency, p_note);
    END IF;

    -- 2. Who pays whom; then both rows, in the one order that everything here locks in: two people who pay each
    --    other at the same moment wait, and never deadlock.
    SELECT id INTO payer.id FROM wallets WHERE person_id = p_person AND currency = p_currency;
    SELECT p.id, o.id INTO v_payee_person, payee.id
      FROM people p LEFT JOIN wallets o ON o.person_id = p.id AND o.currency = p_currency WHERE p.handle = p_to;
    IF v_payee_person IS NULL THEN
        RETURN json_build_object('outcome', 'recipient_not_found');
    ELSIF v_payee_person = p_person THEN
        RETURN json_build_object('outcome', 'self_transfer');
    ELSIF payer.id IS NULL OR payee.id IS NULL THEN
        RETURN json_build_object('outcome', 'currency_mismatch');
    END IF;
    FOR w IN SELECT * FROM wallets WHERE id IN (payer.id, payee.id) ORDER BY id FOR NO KEY UPDATE LOOP
        IF w.id = payer.id THEN payer := w; ELSE payee := w; END IF;
    END LOOP;

    -- 3. Known key now? A twin of this request may have held the locks until a moment ago.
    SELECT * INTO t FROM transfers WHERE id = p_id;
    IF FOUND THEN
        RETURN replay(t, t.from_wallet, p_to, p_amount, p_currency, p_note);
    END IF;

    -- 4. Decide, on what the locks hold still.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    t.id := p_id; t.from_wallet := payer.id; t.to_wallet := payee.id;
    t.kind := 'transfer'; t.amount := p_amount; t.currency := p_currency; t.asked := p_to; t.note := p_note;
    t.status := 'Success';
    t.created_at := now_ms(); t.completed_at := t.created_at;
    t.from_seq := payer.version + 1; t.to_seq := payee.version + 1;
    IF payer.available < p_amount THEN
        t.status := 'Failure'; t.failure_code := 'insufficient_funds'; t.to_seq := NULL;
    ELSIF payee.available + payee.locked > 9007199254740991 - p_amount THEN
        t.status := 'Failure'; t.failure_code := 'limit_exceeded'; t.to_seq := NULL;
    END IF;

    -- 5. Write. The insert that finds its key taken belongs to a twin over other wallets: same key, other request.
    INSERT INTO transfers VALUES (t.*) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'idempotency_key_reused');
    ELSIF t.status = 'Success' THEN
        UPDATE wallets SET available = available + CASE id WHEN payer.id THEN -p_amount ELSE p_amount END,
                           version = version + 1, updated_at = t.created_at
         WHERE id IN (payer.id, payee.id);
        INSERT INTO entries (wallet_id, transfer_id, seq, available_delta, locked_delta, available_after, locked_after,
                             created_at, opening)
        VALUES (payer.id, p_id, t.from_seq, -p_amount, 0, payer.available - p_amount, payer.locked, t.created_at, true),
               (payee.id, p_id, t.to_seq, p_amount, 0, payee.available + p_amount, payee.locked, t.created_at, true);
        RETURN json_build_object('outcome', 'made', 'transaction', transaction_view(t, payer.id),
                                 'changed', changed_wallets(payer.id, payee.id));
    END IF;
    UPDATE wallets SET version = version + 1, updated_at = t.created_at WHERE id = payer.id;
    INSERT INTO entries (wallet_id, transfer_id, seq, available_delta, locked_delta, available_after, locked_after,
                         created_at, opening)
    VALUES (payer.id, p_id, t.from_seq, 0, 0, payer.available, payer.locked, t.created_at, true);
    RETURN json_build_object('outcome', 'made', 'transaction', transaction_view(t, payer.id),
                             'changed', changed_wallets(payer.id));
END $$;
GRANT EXECUTE ON FUNCTION make_transfer(uuid, uuid, uuid, text, bigint, text, text) TO okane_app;
