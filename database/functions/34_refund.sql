-- Gives back what a transfer brought, whole or in part, from its recipient's available money. p_amount null: all that is left.
-- -> {"outcome": "made" | "replayed", "transaction", "limit", "changed"}
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "not_found" | "forbidden" | "ended" (it did not succeed)
--                | "refund_exceeds_original" ("left", "captured": minor units)}
CREATE OR REPLACE FUNCTION make_refund(p_person uuid, p_session uuid, p_id uuid, p_of uuid, p_amount bigint, p_note text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    o transfers;
    giver wallets;
    taker wallets;
    v_asked text := coalesce(p_amount::text, 'all');
    v_payer_person uuid;
    v_payee_person uuid;
    v_left bigint;
BEGIN
    -- 1. Known key?
    SELECT * INTO t FROM transfers WHERE id = p_id;
    IF NOT FOUND THEN
        -- 2. Whose was it? Then both wallets: who gives and who takes are the other way round.
        SELECT * INTO o FROM transfers WHERE id = p_of AND kind = 'transfer';
        SELECT person_id INTO v_payer_person FROM wallets WHERE id = o.from_wallet;
        SELECT person_id INTO v_payee_person FROM wallets WHERE id = o.to_wallet;
        IF p_person = v_payee_person THEN
            PERFORM lock_sides(o.to_wallet, o.from_wallet);
        END IF;
        -- 3. Known key now?
        SELECT * INTO t FROM transfers WHERE id = p_id;
    END IF;

    -- 4. Decide.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF t.id IS NOT NULL THEN
        RETURN replay(t, t.from_wallet, (t.refund_of, t.asked, t.note) IS NOT DISTINCT FROM (p_of, v_asked, p_note));
    ELSIF p_person = v_payer_person THEN
        RETURN json_build_object('outcome', 'forbidden');
    ELSIF p_person IS DISTINCT FROM v_payee_person OR refused(o) THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    SELECT * INTO o FROM transfers WHERE id = p_of;
    IF o.status <> 'Success' THEN
        RETURN json_build_object('outcome', 'ended', 'changed', json_build_array());
    END IF;
    v_left := coalesce(o.captured_amount, o.amount) - refunded(o.id);
    IF v_left = 0 OR p_amount > v_left THEN
        RETURN json_build_object('outcome', 'refund_exceeds_original', 'left', v_left,
                                 'captured', coalesce(o.captured_amount, o.amount));
    END IF;
    t.amount := coalesce(p_amount, v_left);
    SELECT * INTO giver FROM wallets WHERE id = o.to_wallet;
    SELECT * INTO taker FROM wallets WHERE id = o.from_wallet;
    IF giver.debit_frozen OR taker.credit_frozen THEN
        t.failure_code := 'wallet_frozen';
    ELSIF giver.available < t.amount THEN
        t.failure_code := 'insufficient_funds';
    ELSIF NOT has_room(taker, t.amount) THEN
        t.failure_code := 'limit_exceeded';
        t.failure_limit := room_limit();
    END IF;

    -- 5. Write.
    t.id := p_id; t.kind := 'refund'; t.from_wallet := giver.id; t.to_wallet := taker.id; t.refund_of := o.id;
    t.currency := o.currency; t.asked := v_asked; t.note := p_note;
    t.created_at := greatest(now_ms(), giver.updated_at, taker.updated_at); t.completed_at := t.created_at;
    t.status := CASE WHEN t.failure_code IS NULL THEN 'Success' ELSE 'Failure' END;
    t.from_seq := giver.version + 1;
    t.to_seq := CASE WHEN t.failure_code IS NULL THEN taker.version + 1 END;
    INSERT INTO transfers VALUES (t.*) ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN  -- a twin, over other wallets
        RETURN json_build_object('outcome', 'idempotency_key_reused');
    ELSIF t.failure_code IS NULL THEN
        giver := write_entry(giver.id, p_id, NULL, t.created_at, -t.amount, 0);
        taker := write_entry(taker.id, p_id, NULL, t.created_at, t.amount, 0);
    ELSE
        giver := write_entry(giver.id, p_id, NULL, t.created_at, 0, 0);
    END IF;
    RETURN json_build_object('outcome', 'made', 'transaction', transaction_seen_from(t, giver.id),
                             'limit', t.failure_limit, 'changed', changed_wallets(giver.id, taker.id));
END $$;
GRANT EXECUTE ON FUNCTION make_refund(uuid, uuid, uuid, uuid, bigint, text) TO okane_app;
