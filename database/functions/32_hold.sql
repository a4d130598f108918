-- Ends a hold: captures p_captured minor units of it and releases the rest, or releases it all (0) for p_code, at p_at.
-- The caller holds the locks and has decided. p_by and p_asked: the request that did it, if one did.
CREATE OR REPLACE FUNCTION end_hold(t transfers, p_at timestamptz, p_captured bigint, p_code text, p_by uuid, p_asked text)
RETURNS transfers LANGUAGE plpgsql AS $$
DECLARE
    payer wallets;
    payee wallets;
BEGIN
    IF p_captured < t.amount THEN
        PERFORM count_back(t.from_wallet, t.created_at, t.amount - p_captured, p_captured = 0);
    END IF;
    payer := write_entry(t.from_wallet, t.id, 'closing', p_at, t.amount - p_captured, -t.amount);
    payee := write_entry(t.to_wallet, t.id, 'closing', p_at, p_captured, 0);
    UPDATE transfers SET completed_at = p_at, from_seq = payer.version, to_seq = payee.version,
           failure_code = p_code, captured_amount = nullif(p_captured, 0), resolved_by = p_by, resolved_asked = p_asked,
           status = CASE WHEN p_captured > 0 THEN 'Success' ELSE 'Failure' END::transfer_status
     WHERE id = t.id RETURNING * INTO t;
    IF p_captured > 0 THEN
        PERFORM know_payee(payer, payee.id);
    END IF;
    RETURN t;
END $$;

-- Captures a hold, whole (p_amount null) or in part, or voids it: once, and for its recipient only. p_key names the request, as
-- the id of a transfer does. A hold whose time is over is released here, if no sweep came before.
-- -> {"outcome": "made" | "replayed", "transaction", "changed"}
--  | {"outcome": "expired" | "ended", "changed"}: too late, it has come to another end
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "not_found" | "forbidden" | "capture_exceeds_hold" | "wallet_frozen"
--                | "limit_exceeded" (the recipient's wallet is full)}
CREATE OR REPLACE FUNCTION resolve_hold(p_person uuid, p_session uuid, p_key uuid, p_id uuid, p_capture boolean, p_amount bigint)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    known transfers;
    v_asked text := CASE WHEN p_capture THEN 'capture ' || coalesce(p_amount::text, 'all') ELSE 'void' END;
    v_payer_person uuid;
    v_payee_person uuid;
    payer wallets;
    payee wallets;
    v_at timestamptz;
    v_captured bigint;
BEGIN
    -- 1. Known key? One at a time for a key: its twin may be at another hold, over other wallets.
    PERFORM lock_name(3, p_key::text);
    SELECT * INTO known FROM transfers WHERE resolved_by = p_key;
    IF NOT FOUND THEN
        -- 2. Whose is it? Then its wallets.
        SELECT * INTO t FROM transfers WHERE id = p_id AND kind = 'transfer';
        SELECT person_id INTO v_payer_person FROM wallets WHERE id = t.from_wallet;
        SELECT person_id INTO v_payee_person FROM wallets WHERE id = t.to_wallet;
        IF p_person = v_payee_person THEN
            PERFORM lock_sides(t.from_wallet, t.to_wallet);
        END IF;
    END IF;

    -- 3. Decide.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF known.id IS NOT NULL THEN
        RETURN replay(known, known.to_wallet, known.id = p_id AND known.resolved_asked = v_asked);
    ELSIF p_person = v_payer_person THEN
        RETURN json_build_object('outcome', 'forbidden');
    ELSIF p_person IS DISTINCT FROM v_payee_person OR refused(t) THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    SELECT * INTO t FROM transfers WHERE id = p_id;  -- as it is now
    SELECT * INTO payer FROM wallets WHERE id = t.from_wallet;
    SELECT * INTO payee FROM wallets WHERE id = t.to_wallet;
    v_captured := CASE WHEN p_capture THEN coalesce(p_amount, t.amount) ELSE 0 END;
    v_at := greatest(now_ms(), payer.updated_at, payee.updated_at);
    IF t.status <> 'Processing' THEN
        RETURN json_build_object('outcome', 'ended', 'changed', changed_wallets(t.from_wallet, t.to_wallet));
    ELSIF t.expires_at <= v_at THEN
        PERFORM end_hold(t, v_at, 0, 'expired', NULL, NULL);
        RETURN json_build_object('outcome', 'expired', 'changed', changed_wallets(t.from_wallet, t.to_wallet));
    ELSIF v_captured > t.amount THEN
        RETURN json_build_object('outcome', 'capture_exceeds_hold', 'held', t.amount);
    ELSIF p_capture AND (payer.debit_frozen OR payee.credit_frozen) THEN
        RETURN json_build_object('outcome', 'wallet_frozen');
    ELSIF NOT has_room(payee, v_captured) THEN
        RETURN json_build_object('outcome', 'limit_exceeded', 'limit', room_limit());
    END IF;

    -- 4. Write.
    t := end_hold(t, v_at, v_captured, CASE WHEN NOT p_capture THEN 'voided' END, p_key, v_asked);
    RETURN json_build_object('outcome', 'made', 'transaction', transaction_seen_from(t, t.to_wallet),
                             'changed', changed_wallets(t.from_wallet, t.to_wallet));
END $$;
GRANT EXECUTE ON FUNCTION resolve_hold(uuid, uuid, uuid, uuid, boolean, bigint) TO okane_app;

-- Releases holds whose time is over, p_most of them, the oldest first, for a second at most. Never waits: what somebody has locked
-- is touched by them, or left to the next sweep. -> {"released": number, "changed": [...]}
CREATE OR REPLACE FUNCTION sweep_holds(p_most integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    w wallets;
    v_at timestamptz;
    v_wallets bigint[] := '{}';
    v_released integer := 0;
    v_until timestamptz := clock_timestamp() + interval '1 second';
BEGIN
    FOR t IN SELECT * FROM transfers
              WHERE status = 'Processing' AND kind = 'transfer' AND coalesce(expires_at, created_at) <= clock_timestamp()
              ORDER BY coalesce(expires_at, created_at) LOOP
        EXIT WHEN v_released = p_most OR clock_timestamp() > v_until;
        BEGIN
            FOR w IN SELECT * FROM wallets WHERE id IN (t.from_wallet, t.to_wallet) ORDER BY id FOR NO KEY UPDATE NOWAIT LOOP
                PERFORM fold(w);
            END LOOP;
            SELECT * INTO t FROM transfers WHERE id = t.id;
            IF t.status = 'Processing' THEN
                SELECT greatest(now_ms(), max(updated_at)) INTO v_at FROM wallets WHERE id IN (t.from_wallet, t.to_wallet);
                PERFORM end_hold(t, v_at, 0, 'expired', NULL, NULL);
                v_wallets := v_wallets || t.from_wallet || t.to_wallet;
                v_released := v_released + 1;
            END IF;
        EXCEPTION WHEN lock_not_available THEN  -- gives the other row back, too
            CONTINUE;
        END;
    END LOOP;
    RETURN json_build_object('released', v_released, 'changed', changed_wallets(VARIADIC v_wallets));
END $$;
GRANT EXECUTE ON FUNCTION sweep_holds(integer) TO okane_app;

-- Folds in what has arrived at one wallet that has something waiting, up to p_most of it; wallets that somebody has locked fold
-- for themselves. -> {"folded": number of entries made; 0 when there is nothing more to do now}
CREATE OR REPLACE FUNCTION fold_arrivals(p_most integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    w wallets;
    v_version bigint;
BEGIN
    SELECT * INTO w FROM wallets WHERE id IN (SELECT DISTINCT wallet_id FROM arrivals) LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
    v_version := w.version;
    IF FOUND THEN
        w := fold(w, p_most);
    END IF;
    RETURN json_build_object('folded', coalesce(w.version - v_version, 0));
END $$;
GRANT EXECUTE ON FUNCTION fold_arrivals(integer) TO okane_app;
