-- One line on one wallet, whose row the caller has locked. A balance changes here, in pay() and in fold(). Amounts in
-- minor units; p_counted is what counts for the limits. Returns the wallet as it is afterwards.
CREATE OR REPLACE FUNCTION write_entry(p_wallet bigint, p_transfer uuid, p_tag entry_tag, p_at timestamptz,
                                       p_available_delta bigint, p_locked_delta bigint, p_counted bigint DEFAULT 0)
RETURNS wallets LANGUAGE plpgsql AS $$
DECLARE
    w wallets;
BEGIN
    UPDATE wallets SET available = available + p_available_delta, locked = locked + p_locked_delta, version = version + 1,
           updated_at = p_at, day_amount = day_amount + p_counted, day_count = day_count + sign(p_counted)::bigint
     WHERE id = p_wallet RETURNING * INTO w;
    INSERT INTO entry_rows (wallet_id, transfer_id, seq, available_delta, available_after, locked_delta, locked_after, tag)
    VALUES (w.id, p_transfer, w.version, p_available_delta, w.available, nullif(p_locked_delta, 0), nullif(w.locked, 0), p_tag);
    RETURN w;
END $$;

-- Makes entries of what has arrived at a wallet, whose row the caller has locked: the first p_most of it, oldest first.
-- Returns the wallet as it is afterwards.
CREATE OR REPLACE FUNCTION fold(w wallets, p_most integer DEFAULT NULL) RETURNS wallets LANGUAGE plpgsql AS $$
DECLARE
    v_count bigint;
    v_amount bigint;
    v_at timestamptz;
BEGIN
    IF NOT w.has_received OR NOT EXISTS (SELECT FROM arrivals WHERE wallet_id = w.id) THEN
        RETURN w;
    END IF;
    WITH taken AS (
        DELETE FROM arrivals
         WHERE wallet_id = w.id AND number IN (SELECT number FROM arrivals WHERE wallet_id = w.id ORDER BY number LIMIT p_most)
        RETURNING *
    ), written AS (
        INSERT INTO entry_rows (wallet_id, transfer_id, seq, available_delta, available_after, locked_after, tag)
        SELECT w.id, transfer_id, w.version + row_number() OVER in_order, amount, w.available + sum(amount) OVER in_order,
               nullif(w.locked, 0), 'folded'
          FROM taken WINDOW in_order AS (ORDER BY number)
    )
    SELECT count(*), sum(amount), max(arrived_at) INTO v_count, v_amount, v_at FROM taken;
    w.available := w.available + v_amount;
    w.version := w.version + v_count;
    w.updated_at := greatest(w.updated_at, v_at);
    UPDATE wallets SET available = w.available, version = w.version, updated_at = w.updated_at WHERE id = w.id;
    RETURN w;
END $$;

-- Whether a person's wallet can take an amount more: every balance stays exact in every JSON reader.
CREATE OR REPLACE FUNCTION has_room(w wallets, p_amount bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT w.available + w.locked <= 9007199254740991 - p_amount
$$;

-- Whether a credit is put down beside a wallet instead of on it, so that it needs no lock there. What has arrived and is not
-- folded in is not in the balance, so large amounts and very full wallets go the ordinary way: over four thousand
-- arrivals of the largest amount would be needed to make a balance that JSON readers cannot hold.
CREATE OR REPLACE FUNCTION arrives(w wallets, p_amount bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT w.receiving AND p_amount <= 1000000000000 AND w.available + w.locked <= 4503599627370496
$$;

-- Locks the two wallets of a transfer, in the one order that everything here locks in, and folds in what has arrived there.
CREATE OR REPLACE FUNCTION lock_sides(p_one bigint, p_other bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    w wallets;
BEGIN
    FOR w IN SELECT * FROM wallets WHERE id IN (p_one, p_other) ORDER BY id FOR NO KEY UPDATE LOOP
        PERFORM fold(w);
    END LOOP;
END $$;

-- What a known key gets: the transaction it named, if p_same says that this is the same request, else a refusal. The
-- comparison is with the request as it was made, so a recipient who has since changed their handle breaks nothing.
CREATE OR REPLACE FUNCTION replay(t transfers, p_viewer bigint, p_same boolean) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    IF NOT p_same THEN
        RETURN json_build_object('outcome', 'idempotency_key_reused');
    END IF;
    PERFORM show_arrivals(t, p_viewer);
    RETURN json_build_object('outcome', 'replayed', 'transaction', transaction_seen_from(t, p_viewer),
                             'limit', t.failure_limit, 'changed', changed_wallets(t.from_wallet, t.to_wallet));
END $$;

-- Before a transfer is shown to the owner of p_viewer: what it has brought there must be an entry, to have a number.
CREATE OR REPLACE FUNCTION show_arrivals(t transfers, p_viewer bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    w wallets;
BEGIN
    IF p_viewer = t.to_wallet AND t.to_seq IS NULL AND EXISTS (SELECT FROM arrivals WHERE wallet_id = p_viewer) THEN
        SELECT * INTO w FROM wallets WHERE id = p_viewer FOR NO KEY UPDATE;
        PERFORM fold(w);
    END IF;
END $$;

-- Decides and writes one payment, or the hold of one. The payer's row is locked, and the payee's unless the credit arrives.
-- p_name: the payee's. p_arrives: the payee's row is not locked. p_limited: the currency has limits.
-- p_batched: the caller has turned the payer's day, says in payer.updated_at when it is, and writes the payer's row, once for
-- many payments.
-- -> {"outcome": "made", "transaction", "limit", "changed"}
--  | {"outcome": "idempotency_key_reused"}: the key was taken already, by a twin over other wallets
--  | for a batch, {"code", "limit", "transaction"}, null for a key that was taken
CREATE OR REPLACE FUNCTION pay(p_id uuid, payer wallets, payee wallets, p_amount bigint, p_asked text, p_note text, p_name text,
                               p_arrives boolean, p_limited boolean, p_hold_seconds integer, p_batched boolean)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    t transfers;
    v_at timestamptz := payer.updated_at;
    v_out bigint := 0;   -- of the payer's available money
    v_held bigint := 0;  -- of that, locked
    v_in bigint := 0;    -- what the payee gets at once
    v_view json;
BEGIN
    IF NOT p_batched THEN
        v_at := greatest(now_ms(), payer.updated_at, CASE WHEN NOT p_arrives THEN payee.updated_at END);
        IF payer.day IS DISTINCT FROM (v_at AT TIME ZONE 'UTC')::date THEN
            payer := turn_day(payer.id, (v_at AT TIME ZONE 'UTC')::date);
        END IF;
    END IF;
    IF p_limited AND NOT payer.debit_frozen THEN
        t.failure_limit := limit_exceeded(payer, p_amount, payee.id);
    END IF;
    -- What is the payer's own comes first: nobody learns of the payee without the money to pay them.
    t.status := 'Failure';
    IF payer.debit_frozen THEN
        t.failure_code := 'wallet_frozen';
    ELSIF t.failure_limit IS NOT NULL THEN
        t.failure_code := 'limit_exceeded';
    ELSIF payer.available < p_amount THEN
        t.failure_code := 'insufficient_funds';
    ELSIF payee.credit_frozen THEN
        t.failure_code := 'wallet_frozen';
    ELSIF NOT p_arrives AND NOT has_room(payee, p_amount) THEN
        t.failure_code := 'limit_exceeded';
        t.failure_limit := room_limit();
    ELSIF p_hold_seconds IS NULL THEN
        t.status := 'Success';
        v_out := -p_amount;
        v_in := p_amount;
    ELSE
        t.status := 'Processing';
        v_out := -p_amount;
        v_held := p_amount;
    END IF;
    t.id := p_id; t.kind := 'transfer'; t.from_wallet := payer.id; t.to_wallet := payee.id; t.amount := p_amount;
    t.currency := payer.currency; t.asked := p_asked; t.note := p_note; t.created_at := v_at;
    t.completed_at := CASE WHEN t.status <> 'Processing' THEN v_at END;
    t.expires_at := v_at + make_interval(secs => p_hold_seconds);
    t.from_seq := payer.version + 1;
    t.to_seq := CASE WHEN t.failure_code IS NULL AND NOT p_arrives THEN payee.version + 1 END;
    INSERT INTO transfers VALUES (t.*) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN CASE WHEN NOT p_batched THEN json_build_object('outcome', 'idempotency_key_reused') END;
    END IF;
    -- Both wallets in one statement, and both entries in one: what two write_entry() do.
    UPDATE wallets SET version = version + 1, updated_at = v_at,
           available = available + CASE id WHEN payer.id THEN v_out ELSE v_in END,
           locked = locked + CASE id WHEN payer.id THEN v_held ELSE 0 END,
           day_amount = day_amount - CASE id WHEN payer.id THEN v_out ELSE 0 END,
           day_count = day_count + CASE id WHEN payer.id THEN sign(-v_out)::bigint ELSE 0 END
     WHERE id IN (CASE WHEN NOT p_batched THEN payer.id END, CASE WHEN t.to_seq IS NOT NULL THEN payee.id END);
    payer.available := payer.available + v_out; payer.locked := payer.locked + v_held;
    payer.version := payer.version + 1; payer.updated_at := v_at;
    IF t.to_seq IS NOT NULL THEN
        payee.available := payee.available + v_in; payee.version := t.to_seq; payee.updated_at := v_at;
        INSERT INTO entry_rows (wallet_id, transfer_id, seq, available_delta, available_after, locked_delta, locked_after)
        VALUES (payer.id, p_id, payer.version, v_out, payer.available, nullif(v_held, 0), nullif(payer.locked, 0)),
               (payee.id, p_id, payee.version, v_in, payee.available, NULL, nullif(payee.locked, 0));
    ELSE
        INSERT INTO entry_rows (wallet_id, transfer_id, seq, available_delta, available_after, locked_delta, locked_after)
        VALUES (payer.id, p_id, payer.version, v_out, payer.available, nullif(v_held, 0), nullif(payer.locked, 0));
        IF t.failure_code IS NULL THEN
            INSERT INTO arrivals (wallet_id, transfer_id, amount, arrived_at) VALUES (payee.id, p_id, v_in, v_at);
        END IF;
    END IF;
    IF p_limited AND t.status = 'Success' THEN
        PERFORM know_payee(payer, payee.id);
    END IF;
    v_view := transaction_view(t, 'out', counterparty_view(NULL, p_asked, p_name, t.status), payer.available, payer.version, 0);
    IF p_batched THEN
        RETURN json_build_object('code', t.failure_code, 'limit', t.failure_limit, 'transaction', v_view);
    END IF;
    RETURN json_build_object('outcome', 'made', 'transaction', v_view, 'limit', t.failure_limit,
        'changed', CASE WHEN t.failure_code IS NULL THEN json_build_array(change_view(payer), change_view(payee))
                        ELSE json_build_array(change_view(payer)) END);
END $$;

-- The limit that a recipient's wallet has: what it holds is nobody else's business.
CREATE OR REPLACE FUNCTION room_limit() RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT json_build_object('name', 'recipient_balance', 'used', NULL, 'cap', 9007199254740991, 'resets_at', NULL)
$$;

-- Moves money from one person to another at once, or holds it for p_hold_seconds, or records why not.
-- -> {"outcome": "made" | "replayed", "transaction": {...}, "limit": {...}|null, "changed": [{"person_id", "wallet"}]}
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "recipient_not_found" | "self_transfer" | "currency_mismatch"}
--  | {"outcome": "rate_limited", "retry_after": seconds}: too many handles that nobody has
CREATE OR REPLACE FUNCTION make_transfer(p_person uuid, p_session uuid, p_id uuid, p_to text, p_amount bigint,
                                         p_currency text, p_note text, p_hold_seconds integer DEFAULT NULL)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    payer wallets;
    payee wallets;
    recipient people;
    v_limited boolean;  -- the currency has limits
    v_arrives boolean;
    v_known boolean;
BEGIN
    -- 1. Known key? Most replays end here, without a lock.
    v_known := EXISTS (SELECT FROM transfers WHERE id = p_id);
    IF NOT v_known THEN
        -- 2. Who pays whom; then both rows, in the one order that everything here locks in: two people who pay each
        --    other at the same moment wait, and never deadlock. A wallet that the credit arrives at needs no lock.
        SELECT p.id, p.name, m.id, o.id, o.available, o.locked, o.receiving
          INTO recipient.id, recipient.name, payer.id, payee.id, payee.available, payee.locked, payee.receiving
          FROM (SELECT 1) one
          LEFT JOIN people p ON p.handle = p_to
          LEFT JOIN wallets o ON o.person_id = p.id AND o.currency = p_currency
          LEFT JOIN wallets m ON m.person_id = p_person AND m.currency = p_currency;
        v_arrives := arrives(payee, p_amount);
        IF payee.id < payer.id AND NOT v_arrives THEN
            SELECT * INTO payee FROM wallets WHERE id = payee.id FOR NO KEY UPDATE;
        END IF;
        SELECT * INTO payer FROM wallets WHERE id = payer.id FOR NO KEY UPDATE;
        IF v_arrives THEN
            SELECT * INTO payee FROM wallets WHERE id = payee.id;
        ELSIF payee.id > payer.id THEN
            SELECT * INTO payee FROM wallets WHERE id = payee.id FOR NO KEY UPDATE;
        END IF;
        IF payer.has_received THEN payer := fold(payer); END IF;
        IF payee.has_received AND NOT v_arrives THEN payee := fold(payee); END IF;
        -- 3. Known key now? A twin of this request may have held the locks until a moment ago.
        v_known := EXISTS (SELECT FROM transfers WHERE id = p_id);
    END IF;

    -- 4. Decide, on what the locks hold still.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF v_known THEN
        SELECT * INTO t FROM transfers WHERE id = p_id;
        RETURN replay(t, t.from_wallet, (t.asked, t.amount, t.currency, t.note, t.expires_at - t.created_at)
            IS NOT DISTINCT FROM (p_to, p_amount, p_currency, p_note, make_interval(secs => p_hold_seconds)));
    ELSIF recipient.id IS NULL THEN
        RETURN recipient_missed(p_person, 1);
    ELSIF recipient.id = p_person THEN
        RETURN json_build_object('outcome', 'self_transfer');
    ELSIF payer.id IS NULL OR payee.id IS NULL THEN
        RETURN json_build_object('outcome', 'currency_mismatch');
    END IF;

    -- 5. Write.
    v_limited := EXISTS (SELECT FROM limits WHERE currency = p_currency);
    RETURN pay(p_id, payer, payee, p_amount, p_to, p_note, recipient.name, v_arrives, v_limited, p_hold_seconds, false);
END $$;
GRANT EXECUTE ON FUNCTION make_transfer(uuid, uuid, uuid, text, bigint, text, text, integer) TO okane_app;
