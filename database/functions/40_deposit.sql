-- The stripe of a party's wallets that a transfer uses, made when it is first needed. Spread by the transfer's id, so
-- that no deposit waits for another.
CREATE OR REPLACE FUNCTION system_wallet(p_party text, p_currency text, p_transfer uuid) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_stripe smallint := get_byte(uuid_send(p_transfer), 0) % 16;
    v_id bigint;
BEGIN
    SELECT id INTO v_id FROM wallets WHERE party = p_party AND currency = p_currency AND stripe = v_stripe;
    IF NOT FOUND THEN
        INSERT INTO wallets (party, currency, stripe) VALUES (p_party, p_currency, v_stripe) ON CONFLICT DO NOTHING;
        SELECT id INTO v_id FROM wallets WHERE party = p_party AND currency = p_currency AND stripe = v_stripe;
    END IF;
    RETURN v_id;
END $$;

-- One name at a time for whatever concerns a transfer that may not exist yet: an intent that is being opened and a bank
-- event that looks for it must see one another. Taken before any row lock, and only one of each class per transaction.
CREATE OR REPLACE FUNCTION lock_name(p_class integer, p_name text) RETURNS void LANGUAGE sql AS $$
    SELECT pg_advisory_xact_lock(p_class, hashtext(p_name))
$$;

-- Ends a deposit: credits it from the bank's wallet, or marks it failed. Returns null, or the remark of a quarantine.
-- The caller holds the transfer's name and has seen it in Processing.
CREATE OR REPLACE FUNCTION settle_deposit(p_id uuid, p_succeeded boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t transfers;
    bank wallets;
    payee wallets;
    v_now timestamptz;
BEGIN
    SELECT * INTO t FROM transfers WHERE id = p_id;
    PERFORM lock_sides(t.from_wallet, t.to_wallet);
    SELECT * INTO bank FROM wallets WHERE id = t.from_wallet;
    SELECT * INTO payee FROM wallets WHERE id = t.to_wallet;
    v_now := greatest(now_ms(), bank.updated_at, payee.updated_at);
    IF NOT p_succeeded THEN
        UPDATE transfers SET status = 'Failure', failure_code = 'declined', completed_at = v_now, to_seq = payee.version + 1
         WHERE id = p_id;
        PERFORM write_entry(payee.id, p_id, 'closing', v_now, 0, 0);
        RETURN NULL;
    ELSIF payee.credit_frozen THEN
        RETURN 'the wallet is frozen';
    ELSIF NOT has_room(payee, t.amount) THEN
        RETURN 'the wallet cannot hold the amount';
    END IF;
    UPDATE transfers SET status = 'Success', completed_at = v_now, from_seq = bank.version + 1, to_seq = payee.version + 1
     WHERE id = p_id;
    PERFORM write_entry(bank.id, p_id, 'closing', v_now, -t.amount, 0);
    PERFORM write_entry(payee.id, p_id, 'closing', v_now, t.amount, 0);
    RETURN NULL;
END $$;

-- Opens a deposit: an intent that the bank will settle. Events that came before it are applied at once.
-- -> {"outcome": "made" | "replayed", "transaction", "changed"}
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "not_found" (no wallet in that currency) | "wallet_frozen"}
CREATE OR REPLACE FUNCTION open_deposit(p_person uuid, p_session uuid, p_id uuid, p_currency text, p_amount bigint,
                                        p_bank text, p_payment_url text, p_expires_at timestamptz)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    w wallets;
    payee wallets;
    e bank_events;
    v_bank bigint;
    v_early boolean;  -- the bank has spoken of this deposit already
BEGIN
    -- 1. Known key?
    SELECT * INTO t FROM transfers WHERE id = p_id;
    IF NOT FOUND THEN
        -- 2. The transfer's name, before any row; then the person's wallet. The stripe's row is locked only if it will be
        --    needed, and then in the same order as everywhere.
        PERFORM lock_name(2, p_id::text);
        SELECT id INTO payee.id FROM wallets WHERE person_id = p_person AND currency = p_currency;
        IF FOUND THEN  -- else anybody could have wallets made for the bank, in any currency
            v_bank := system_wallet('bank:' || p_bank, p_currency, p_id);
        END IF;
        v_early := EXISTS (SELECT FROM bank_events WHERE reference = p_id::text AND status = 'parked');
        FOR w IN SELECT * FROM wallets WHERE id = payee.id OR (v_early AND id = v_bank) ORDER BY id FOR NO KEY UPDATE LOOP
            IF w.id = payee.id THEN payee := fold(w); END IF;
        END LOOP;
        -- 3. Known key now?
        SELECT * INTO t FROM transfers WHERE id = p_id;
    END IF;

    -- 4. Decide.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF t.id IS NOT NULL THEN
        RETURN replay(t, t.to_wallet, (t.asked, t.amount, t.currency) = (p_bank, p_amount, p_currency));
    ELSIF payee.id IS NULL THEN
        RETURN json_build_object('outcome', 'not_found');
    ELSIF payee.credit_frozen THEN
        RETURN json_build_object('outcome', 'wallet_frozen');
    END IF;

    -- 5. Write: the intent moves nothing, and counts as a change of its wallet.
    t.id := p_id; t.from_wallet := v_bank; t.to_wallet := payee.id; t.kind := 'deposit'; t.status := 'Processing';
    t.amount := p_amount; t.currency := p_currency; t.asked := p_bank; t.payment_url := p_payment_url; t.expires_at := p_expires_at;
    t.created_at := greatest(now_ms(), payee.updated_at); t.to_seq := payee.version + 1;
    INSERT INTO transfers VALUES (t.*);
    PERFORM write_entry(payee.id, p_id, NULL, t.created_at, 0, 0);

    -- 6. What the bank said before we knew of it.
    FOR e IN SELECT * FROM bank_events WHERE reference = p_id::text AND status = 'parked' ORDER BY received_at FOR UPDATE LOOP
        PERFORM apply_bank_event(e);
    END LOOP;
    SELECT * INTO t FROM transfers WHERE id = p_id;
    RETURN json_build_object('outcome', 'made', 'transaction', transaction_seen_from(t, payee.id),
                             'changed', changed_wallets(payee.id));
END $$;
GRANT EXECUTE ON FUNCTION open_deposit(uuid, uuid, uuid, text, bigint, text, text, timestamptz) TO okane_app;
