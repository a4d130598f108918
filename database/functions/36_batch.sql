-- Pays many people from one wallet, in order; each item on its own, or all or none (p_all). An item that cannot be a transfer at
-- all has no id in the outcome. p_items: [{"id", "to", "amount", "note"}], p_asked: SHA-256 of the request.
-- -> {"outcome": "made" | "replayed", "refused": boolean (all or none, and none), "items": [{"code", "limit", "transaction"}],
--     "changed": [...]}; transaction is null for an item that could not be one, and for all where none was paid
--  | {"outcome": "session_ended" | "idempotency_key_reused" | "currency_mismatch" (no wallet in that currency)}
--  | {"outcome": "rate_limited", "retry_after": seconds}: too many handles that nobody has, or too many items refused
CREATE OR REPLACE FUNCTION make_batch(p_person uuid, p_session uuid, p_id uuid, p_asked bytea, p_all boolean, p_currency text,
                                      p_items json)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    b batches;
    w wallets;
    payer wallets;
    payee wallets;
    item record;
    v_item json;
    v_at timestamptz;
    v_code text;
    v_limited boolean;  -- the currency has limits
    v_people uuid[];
    v_names text[];
    v_wallets bigint[];
    v_locked bigint[];
    v_misses integer;
    v_wait integer;
    v_missed json;
    v_outcomes json[] := '{}';
    v_items json[] := '{}';  -- the same as the answer shows them
BEGIN
    -- 1. Known key?
    SELECT * INTO b FROM batches WHERE id = p_id;
    IF NOT FOUND THEN
        -- A batch holds a hundred rows for as long as it takes: one that cannot pay must not do that again and again.
        v_wait := spend('batch:' || p_person, 0, 1000, 300);
        IF v_wait > 0 THEN
            RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
        END IF;
        -- 2. Who is paid, decided once; then everybody's wallet, in the one order, but for those that a credit arrives at.
        SELECT array_agg(p.id ORDER BY i.number), array_agg(p.name ORDER BY i.number), array_agg(o.id ORDER BY i.number),
               array_agg(o.id) FILTER (WHERE NOT arrives(o, i.amount))
          INTO v_people, v_names, v_wallets, v_locked
          FROM ROWS FROM (json_to_recordset(p_items) AS ("to" text, amount bigint)) WITH ORDINALITY AS i ("to", amount, number)
          LEFT JOIN people p ON p.handle = i."to"
          LEFT JOIN wallets o ON o.person_id = p.id AND o.currency = p_currency;
        SELECT id INTO payer.id FROM wallets WHERE person_id = p_person AND currency = p_currency;
        IF FOUND THEN
            FOR w IN SELECT * FROM wallets WHERE id = ANY (v_locked || payer.id) ORDER BY id FOR NO KEY UPDATE LOOP
                IF w.has_received THEN PERFORM fold(w); END IF;
            END LOOP;
        END IF;
        -- 3. Known key now?
        SELECT * INTO b FROM batches WHERE id = p_id;
    END IF;

    -- 4. Decide what concerns the whole.
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF b.id IS NOT NULL AND b.asked <> p_asked THEN
        RETURN json_build_object('outcome', 'idempotency_key_reused');
    ELSIF b.id IS NOT NULL THEN
        RETURN batch_view('replayed', b, p_person, p_currency);
    ELSIF payer.id IS NULL THEN
        RETURN json_build_object('outcome', 'currency_mismatch');
    END IF;
    v_misses := cardinality(array_positions(v_people, NULL));
    IF v_misses > 0 THEN
        v_missed := recipient_missed(p_person, least(v_misses, 30));  -- so that there is a time at which it is taken
        IF v_missed->>'outcome' = 'rate_limited' THEN
            RETURN v_missed;
        END IF;
    END IF;
    v_limited := EXISTS (SELECT FROM limits WHERE currency = p_currency);

    -- 5. Pay one after another, and write the payer's row once. A refusal undoes them all where it is all or none.
    BEGIN
        -- One moment for all of it, and so one day.
        SELECT greatest(now_ms(), updated_at) INTO v_at FROM wallets WHERE id = payer.id;
        payer := turn_day(payer.id, (v_at AT TIME ZONE 'UTC')::date);
        payer.updated_at := v_at;
        FOR item IN SELECT *
                      FROM ROWS FROM (json_to_recordset(p_items) AS (id uuid, "to" text, amount bigint, note text),
                                      unnest(v_people), unnest(v_names), unnest(v_wallets))
                           AS i (id, "to", amount, note, person, name, wallet) LOOP
            v_code := CASE WHEN item.person IS NULL THEN 'recipient_not_found'
                           WHEN item.person = p_person THEN 'self_transfer'
                           WHEN item.wallet IS NULL THEN 'currency_mismatch' END;
            IF v_code IS NOT NULL THEN
                item.id := NULL;
                v_item := json_build_object('code', v_code, 'limit', NULL, 'transaction', NULL);
            ELSE
                SELECT * INTO payee FROM wallets WHERE id = item.wallet;  -- as the items before have left it
                v_item := pay(item.id, payer, payee, item.amount, item."to", item.note, item.name,
                              item.wallet <> ALL (coalesce(v_locked, '{}')), v_limited, NULL, true);
                IF v_item IS NULL THEN
                    RAISE EXCEPTION USING ERRCODE = 'OK002';
                END IF;
                v_code := v_item->>'code';
                payer.version := payer.version + 1;
                IF v_code IS NULL THEN
                    payer.available := payer.available - item.amount;
                    payer.day_amount := payer.day_amount + item.amount;
                    payer.day_count := payer.day_count + 1;
                END IF;
            END IF;
            v_outcomes := v_outcomes || json_build_object('id', item.id, 'code', v_code,
                                                          'limit', CASE WHEN v_code IS NOT NULL THEN v_item->'limit' END);
            v_items := v_items || v_item;
            IF p_all AND v_code IS NOT NULL THEN
                RAISE EXCEPTION USING ERRCODE = 'OK001';
            END IF;
        END LOOP;
        UPDATE wallets SET available = payer.available, version = payer.version, updated_at = payer.updated_at,
               day_amount = payer.day_amount, day_count = payer.day_count WHERE id = payer.id;
        INSERT INTO batches VALUES (p_id, p_asked, false, array_to_json(v_outcomes), now_ms()) ON CONFLICT (id) DO NOTHING;
        IF NOT FOUND THEN
            RAISE EXCEPTION USING ERRCODE = 'OK002';
        END IF;
    EXCEPTION
        WHEN SQLSTATE 'OK001' THEN  -- nothing of it has happened, and nothing of it is a transfer
            SELECT array_agg(json_build_object('id', NULL, 'code', o.said->>'code', 'limit', o.said->'limit') ORDER BY o.number)
              INTO v_outcomes
              FROM unnest(v_outcomes || array_fill('{}'::json, ARRAY[json_array_length(p_items) - cardinality(v_outcomes)]))
                   WITH ORDINALITY AS o (said, number);
            INSERT INTO batches VALUES (p_id, p_asked, true, array_to_json(v_outcomes), now_ms()) ON CONFLICT (id) DO NOTHING;
            IF NOT FOUND THEN
                RETURN json_build_object('outcome', 'idempotency_key_reused');
            END IF;
        WHEN SQLSTATE 'OK002' THEN  -- a key was taken, by a twin over other wallets
            RETURN json_build_object('outcome', 'idempotency_key_reused');
    END;
    PERFORM spend('batch:' || p_person, refused_items(v_outcomes, p_all), 1000, 300);
    SELECT * INTO b FROM batches WHERE id = p_id;
    IF NOT b.refused THEN
        RETURN json_build_object('outcome', 'made', 'refused', false, 'items', array_to_json(v_items),
                                 'changed', changed_wallets(VARIADIC payer.id || v_wallets));
    END IF;
    RETURN batch_view('made', b, p_person, p_currency);
END $$;
GRANT EXECUTE ON FUNCTION make_batch(uuid, uuid, uuid, bytea, boolean, text, json) TO okane_app;

-- How many items of a batch were not paid: all of them where all or none was asked for and one could not be.
CREATE OR REPLACE FUNCTION refused_items(p_outcomes json[], p_all boolean) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_all AND count(said->>'code') > 0 THEN count(*) ELSE count(said->>'code') END::integer
      FROM unnest(p_outcomes) AS o (said)
$$;

-- What a batch came to, for the person who paid.
CREATE OR REPLACE FUNCTION batch_view(p_outcome text, b batches, p_person uuid, p_currency text) RETURNS json
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_payer bigint := (SELECT id FROM wallets WHERE person_id = p_person AND currency = p_currency);
BEGIN
    RETURN (
        SELECT json_build_object('outcome', p_outcome,
            'refused', b.refused,
            'items', json_agg(json_build_object('code', o.said->>'code', 'limit', o.said->'limit',
                'transaction', CASE WHEN t.id IS NOT NULL THEN transaction_seen_from(t, v_payer) END) ORDER BY o.number),
            'changed', (SELECT changed_wallets(VARIADIC v_payer || array_agg(DISTINCT t.to_wallet))))
          FROM json_array_elements(b.outcomes) WITH ORDINALITY AS o (said, number)
          LEFT JOIN transfers t ON t.id = (o.said->>'id')::uuid
    );
END $$;
