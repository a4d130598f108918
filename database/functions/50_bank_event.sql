-- The transfer that a bank's reference names, if it is an id at all; null otherwise.
CREATE OR REPLACE FUNCTION referenced(p_reference text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_reference ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' THEN p_reference::uuid END
$$;

-- Decides what an event that is new to us does, does it, and records the decision on the event. Returns its status.
-- The caller holds the names of the bank reference and of the transfer.
CREATE OR REPLACE FUNCTION apply_bank_event(e bank_events) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    t transfers;
    v_succeeded boolean := e.type LIKE '%.succeeded';
    v_status text := 'quarantined';
    v_remark text;
    v_settled timestamptz;
BEGIN
    SELECT * INTO t FROM transfers WHERE id = referenced(e.reference);
    IF NOT FOUND THEN
        v_status := 'parked';
        v_remark := 'unknown reference';
    ELSIF t.kind::text <> split_part(e.type, '.', 1) OR t.asked <> e.bank THEN
        v_remark := 'the reference is not a transfer of this kind with this bank';
    ELSIF t.status <> 'Processing' AND NOT v_succeeded THEN
        v_status := 'duplicate';
        v_remark := 'failure after the end';
    ELSIF (t.amount, t.currency) IS DISTINCT FROM (e.amount, e.currency) THEN
        v_remark := 'the amount or the currency differs from what was asked for';
    ELSIF t.status <> 'Processing' THEN
        v_remark := CASE t.status WHEN 'Failure' THEN 'success after failure' ELSE 'a second payment' END;
    ELSE
        IF t.kind = 'deposit' THEN
            v_remark := settle_deposit(t.id, v_succeeded);
        ELSE
            PERFORM settle_withdrawal(t.id, v_succeeded);
        END IF;
        IF v_remark IS NULL THEN
            v_status := 'processed';
            v_settled := clock_timestamp();
        END IF;
    END IF;
    UPDATE bank_events SET status = v_status, remark = v_remark, settled_at = v_settled
     WHERE bank = e.bank AND webhook_id = e.webhook_id;
    RETURN v_status;
END $$;

-- Takes in one event from a bank whose signature was right.
-- -> {"status": "processed" | "duplicate" | "parked" | "quarantined", "recorded": the same, but "quarantined" for a duplicate
--     that a person must look at, "changed": [...]}
--  | {"status": "conflict"}: the same webhook id came before with another body
CREATE OR REPLACE FUNCTION receive_bank_event(p_bank text, p_webhook_id text, p_body_hash bytea, p_type text,
    p_reference text, p_bank_reference text, p_amount bigint, p_currency text, p_reason text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    e bank_events;
    o bank_events;
    v_recorded text;
    v_reference text := coalesce(referenced(lower(p_reference))::text, p_reference);
    v_succeeded boolean := p_type LIKE '%.succeeded';
BEGIN
    PERFORM lock_name(1, p_bank || ' ' || p_bank_reference);
    PERFORM lock_name(2, v_reference);

    -- The primary key decides who is first; a twin waits here for the first one's end.
    INSERT INTO bank_events (bank, webhook_id, body_hash, type, reference, bank_reference, amount, currency, reason, status)
    VALUES (p_bank, p_webhook_id, p_body_hash, p_type, v_reference, p_bank_reference, p_amount, p_currency, p_reason,
            'duplicate')
    ON CONFLICT (bank, webhook_id) DO NOTHING RETURNING * INTO e;
    IF NOT FOUND THEN
        SELECT * INTO e FROM bank_events WHERE bank = p_bank AND webhook_id = p_webhook_id;
        IF e.body_hash <> p_body_hash THEN
            RETURN json_build_object('status', 'conflict');
        END IF;
        e.status := 'duplicate';
        v_recorded := 'duplicate';
    ELSE
        -- The same movement at the bank under a new id? (A success that follows a failure is none: it is decided below.)
        SELECT * INTO o FROM bank_events
         WHERE bank = p_bank AND bank_reference = p_bank_reference AND webhook_id <> p_webhook_id
           AND NOT (v_succeeded AND type LIKE '%.failed') ORDER BY received_at LIMIT 1;
        IF NOT FOUND THEN
            e.status := apply_bank_event(e);
            v_recorded := e.status;
        ELSE
            -- A duplicate to the bank, whatever it says: nothing is credited twice for one bank reference. With other terms
            -- it may be money that has no deposit yet, so it is kept for a person.
            e.status := 'duplicate';
            v_recorded := CASE WHEN (o.reference, o.amount, o.currency) = (e.reference, e.amount, e.currency)
                               THEN 'duplicate' ELSE 'quarantined' END;
            UPDATE bank_events SET status = v_recorded, remark = 'bank reference seen before'
             WHERE bank = p_bank AND webhook_id = p_webhook_id;
        END IF;
    END IF;
    -- Also for a duplicate: its first delivery may have died between the commit and the cache.
    RETURN (SELECT json_build_object('status', e.status, 'recorded', v_recorded,
                       'changed', (SELECT changed_wallets(t.from_wallet, t.to_wallet) FROM transfers t
                                    WHERE t.id = referenced(b.reference) AND t.kind IN ('deposit', 'withdrawal')))
              FROM bank_events b WHERE b.bank = p_bank AND b.webhook_id = p_webhook_id);
END $$;
GRANT EXECUTE ON FUNCTION receive_bank_event(text, text, bytea, text, text, text, bigint, text, text) TO okane_app;
