-- Opens a withdrawal: the amount is locked until the bank settles or declines, however long that takes. Events that came before
-- it are applied at once.
-- -> {"outcome": "made" | "replayed", "transaction", "limit", "changed"}
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "not_found" (no wallet in that currency)}
CREATE OR REPLACE FUNCTION open_withdrawal(p_person uuid, p_session uuid, p_id uuid, p_currency text, p_amount bigint,
                                           p_bank text, p_account text, p_payment_url text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    w wallets;
    payer wallets;
    e bank_events;
    v_bank bigint;
    v_early boolean;  -- the bank has spoken of this withdrawal already
BEGIN
    -- 1. Known key?
    SELECT * INTO t FROM transfers WHERE id = p_id;
    IF NOT FOUND THEN
        -- 2. The transfer's name, before any row; then the person's wallet, and the bank's where it will be needed.
        PERFORM lock_name(2, p_id::text);
        SELECT id INTO payer.id FROM wallets WHERE person_id = p_person AND currency = p_currency;
        IF FOUND THEN
            v_bank := system_wallet('bank:' || p_bank, p_currency, p_id);
        END IF;
        v_early := EXISTS (SELECT FROM bank_events WHERE reference = p_id::text AND status = 'parked');
        FOR w IN SELECT * FROM wallets WHERE id = payer.id OR (v_early AND id = v_bank) ORDER BY id FOR NO KEY UPDATE LOOP
            IF w.id = payer.id THEN payer := fold(w); END IF;
        END LOOP;
        -- 3. Known key now?
        SELECT * INTO t FROM transfers WHERE id = p_id;
    END IF;

    -- 4. Decide.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF t.id IS NOT NULL THEN
        RETURN replay(t, t.from_wallet,
                      (t.asked, t.account, t.amount, t.currency) = (p_bank, p_account, p_amount, p_currency));
    ELSIF payer.id IS NULL THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    t.created_at := greatest(now_ms(), payer.updated_at);
    payer := turn_day(payer.id, (t.created_at AT TIME ZONE 'UTC')::date);
    t.failure_limit := limit_exceeded(payer, p_amount, NULL);
    t.failure_code := CASE WHEN payer.debit_frozen THEN 'wallet_frozen'
                           WHEN t.failure_limit IS NOT NULL THEN 'limit_exceeded'
                           WHEN payer.available < p_amount THEN 'insufficient_funds' END;

    -- 5. Write.
    t.id := p_id; t.from_wallet := payer.id; t.to_wallet := v_bank; t.kind := 'withdrawal';
    t.amount := p_amount; t.currency := p_currency; t.asked := p_bank; t.account := p_account;
    t.from_seq := payer.version + 1;
    IF t.failure_code IS NULL THEN
        t.status := 'Processing';
        t.payment_url := p_payment_url;
    ELSE
        t.status := 'Failure';
        t.completed_at := t.created_at;
        t.failure_limit := CASE t.failure_code WHEN 'limit_exceeded' THEN t.failure_limit END;
    END IF;
    INSERT INTO transfers VALUES (t.*);
    PERFORM write_entry(payer.id, p_id, NULL, t.created_at, CASE t.status WHEN 'Processing' THEN -p_amount ELSE 0 END,
                        CASE t.status WHEN 'Processing' THEN p_amount ELSE 0 END,
                        CASE t.status WHEN 'Processing' THEN p_amount ELSE 0 END);

    -- 6. What the bank said before we knew of it.
    FOR e IN SELECT * FROM bank_events WHERE reference = p_id::text AND status = 'parked' ORDER BY received_at FOR UPDATE LOOP
        PERFORM apply_bank_event(e);
    END LOOP;
    SELECT * INTO t FROM transfers WHERE id = p_id;
    RETURN json_build_object('outcome', 'made', 'transaction', transaction_seen_from(t, payer.id), 'limit', t.failure_limit,
                             'changed', changed_wallets(payer.id));
END $$;
GRANT EXECUTE ON FUNCTION open_withdrawal(uuid, uuid, uuid, text, bigint, text, text, text) TO okane_app;

-- Ends a withdrawal: what was locked goes to the bank's wallet, or back to the person. What the bank has paid is paid, whatever an
-- operator has frozen since. The caller holds the transfer's name and has seen it in Processing.
CREATE OR REPLACE FUNCTION settle_withdrawal(p_id uuid, p_succeeded boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    t transfers;
    payer wallets;
    bank wallets;
    v_now timestamptz;
BEGIN
    SELECT * INTO t FROM transfers WHERE id = p_id;
    PERFORM lock_sides(t.from_wallet, t.to_wallet);
    SELECT * INTO payer FROM wallets WHERE id = t.from_wallet;
    SELECT * INTO bank FROM wallets WHERE id = t.to_wallet;
    v_now := greatest(now_ms(), payer.updated_at, bank.updated_at);
    IF p_succeeded THEN
        UPDATE transfers SET status = 'Success', completed_at = v_now, from_seq = payer.version + 1, to_seq = bank.version + 1
         WHERE id = p_id;
        PERFORM write_entry(payer.id, p_id, 'closing', v_now, 0, -t.amount);
        PERFORM write_entry(bank.id, p_id, 'closing', v_now, t.amount, 0);
    ELSE
        UPDATE transfers SET status = 'Failure', failure_code = 'declined', completed_at = v_now, from_seq = payer.version + 1
         WHERE id = p_id;
        PERFORM count_back(payer.id, t.created_at, t.amount, true);
        PERFORM write_entry(payer.id, p_id, 'closing', v_now, t.amount, -t.amount);
    END IF;
END $$;

-- Withdrawals that no bank has answered for p_seconds. Their amount stays locked: only the bank knows whether it has paid.
-- -> {"count": number, "oldest": RFC 3339 | null}
CREATE OR REPLACE FUNCTION count_unanswered(p_seconds integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT json_build_object('count', count(*), 'oldest', moment(min(created_at))) FROM transfers
         WHERE status = 'Processing' AND kind = 'withdrawal'
           AND coalesce(expires_at, created_at) < clock_timestamp() - make_interval(secs => p_seconds)
    );
END $$;
GRANT EXECUTE ON FUNCTION count_unanswered(integer) TO okane_app;
