-- The slices of the audit that the application asks for, one after another; 85_audit.sql has what they look for, and says what
-- they return. p_after: `next` of the slice before, JSON's null for the first one.

-- One difference as the audit tells it.
CREATE OR REPLACE FUNCTION difference(p_fault text, p_wallet bigint, p_transfer uuid, p_said text, p_actual text) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN json_build_object('check', p_fault, 'wallet', p_wallet,
        'owner', (SELECT coalesce(person_id::text, party) FROM wallets WHERE id = p_wallet),
        'transfer', p_transfer, 'said', p_said, 'found', p_actual);
END $$;

CREATE OR REPLACE FUNCTION slice_found(p_checked json, p_next json, p_differences json[]) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('checked', p_checked, 'count', cardinality(p_differences),
                             'differences', array_to_json(p_differences[:100]), 'next', p_next)
$$;

-- Over all wallets at once: one moment is what makes a sum.
CREATE OR REPLACE FUNCTION audit_totals()
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN slice_found(json_build_object('currencies', (SELECT count(*) FROM (SELECT FROM wallets GROUP BY currency) c)), NULL,
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_totals()));
END $$;
GRANT EXECUTE ON FUNCTION audit_totals() TO okane_app;

-- p_after: {"wallet"}.
CREATE OR REPLACE FUNCTION audit_wallets(p_after json, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_wallets bigint[] := ARRAY(SELECT id FROM wallets WHERE id > coalesce((p_after->>'wallet')::bigint, -9223372036854775808)
                                 ORDER BY id LIMIT p_most);
BEGIN
    RETURN slice_found(json_build_object('wallets', cardinality(v_wallets)),
        CASE WHEN cardinality(v_wallets) = p_most THEN json_build_object('wallet', v_wallets[p_most]) END,
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_wallets(v_wallets)));
END $$;
GRANT EXECUTE ON FUNCTION audit_wallets(json, integer) TO okane_app;

-- The lines in the order of wallets and numbers. p_after: {"wallet", "seq", "day": up to which the wallet's payments were counted}.
-- A wallet may be cut; its payments of the last day of this slice are then counted to their end, beyond it.
CREATE OR REPLACE FUNCTION audit_entries(p_after json, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_wallet bigint := coalesce((p_after->>'wallet')::bigint, -9223372036854775808);
    v_seq bigint := coalesce((p_after->>'seq')::bigint, 0);
    v_wallets bigint[];
    v_low bigint[];
    v_high bigint[];
    v_last integer;         -- the last of the wallets: it may be cut
    v_from date[];
    v_to date[];
    v_day date;             -- up to which its payments are counted here, and
    v_counted bigint[];     -- up to which line; of the others to their ends
    v_later bigint;
    v_lines bigint;
    v_next json;
BEGIN
    SELECT array_agg(wallet_id ORDER BY wallet_id), array_agg(low ORDER BY wallet_id), array_agg(high ORDER BY wallet_id), sum(lines)
      INTO v_wallets, v_low, v_high, v_lines
      FROM (SELECT wallet_id, CASE wallet_id WHEN v_wallet THEN v_seq ELSE 0 END AS low, max(seq) AS high, count(*) AS lines
              FROM (SELECT wallet_id, seq FROM entry_rows WHERE (wallet_id, seq) > (v_wallet, v_seq)
                     ORDER BY wallet_id, seq LIMIT p_most) e
             GROUP BY wallet_id) r;
    v_last := coalesce(cardinality(v_wallets), 0);
    v_from := array_fill('-infinity'::date, ARRAY[v_last]);
    v_to := array_fill('infinity'::date, ARRAY[v_last]);
    v_counted := v_high;
    IF v_wallets[1] = v_wallet THEN
        v_from[1] := coalesce((p_after->>'day')::date, '-infinity');
    END IF;
    IF EXISTS (SELECT FROM entry_rows WHERE wallet_id = v_wallets[v_last] AND seq > v_high[v_last]) THEN
        SELECT greatest(max((t.created_at AT TIME ZONE 'UTC')::date), v_from[v_last]) INTO v_day
          FROM entry_rows e JOIN transfers t ON t.id = e.transfer_id
         WHERE e.wallet_id = v_wallets[v_last] AND e.seq > v_low[v_last] AND e.seq <= v_high[v_last] AND e.tag IS NULL
           AND t.from_wallet = e.wallet_id AND t.kind IN ('transfer', 'withdrawal');
        v_to[v_last] := v_day;
        -- Time runs the way numbers do, so the first line of a later day ends the payments of this one.
        IF v_day > v_from[v_last] THEN
            SELECT e.seq INTO v_later FROM entry_rows e JOIN transfers t ON t.id = e.transfer_id
             WHERE e.wallet_id = v_wallets[v_last] AND e.seq > v_high[v_last]
               AND written_at(e.tag, t) >= (v_day + 1)::timestamp AT TIME ZONE 'UTC' ORDER BY e.seq LIMIT 1;
            v_counted[v_last] := coalesce(v_later, 9223372036854775807);
        END IF;
    END IF;
    IF v_lines = p_most THEN
        -- A wallet that was not cut is done with, whatever it gets by the time of the next slice.
        v_next := json_build_object('wallet', v_wallets[v_last], 'day', v_day,
                                    'seq', CASE WHEN v_day IS NULL THEN 9223372036854775807 ELSE v_high[v_last] END);
    END IF;
    RETURN slice_found(json_build_object('entries', coalesce(v_lines, 0)), v_next,
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_entries(v_wallets, v_low, v_high, true)
              UNION ALL
              SELECT difference(fault, wallet, transfer, said, actual)
                FROM faults_of_days(v_wallets, v_low, v_counted, v_from, v_to)));
END $$;
GRANT EXECUTE ON FUNCTION audit_entries(json, integer) TO okane_app;

-- p_after: {"transfer"}.
CREATE OR REPLACE FUNCTION audit_transfers(p_after json, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_after uuid := (p_after->>'transfer')::uuid;
    v_transfers uuid[];
BEGIN
    IF v_after IS NULL THEN
        v_transfers := ARRAY(SELECT id FROM transfers ORDER BY id LIMIT p_most);
    ELSE
        v_transfers := ARRAY(SELECT id FROM transfers WHERE id > v_after ORDER BY id LIMIT p_most);
    END IF;
    RETURN slice_found(json_build_object('transfers', cardinality(v_transfers)),
        CASE WHEN cardinality(v_transfers) = p_most THEN json_build_object('transfer', v_transfers[p_most]) END,
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_transfers(v_transfers)));
END $$;
GRANT EXECUTE ON FUNCTION audit_transfers(json, integer) TO okane_app;

-- p_after: {"wallet", "number"}.
CREATE OR REPLACE FUNCTION audit_arrivals(p_after json, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_wallet bigint := coalesce((p_after->>'wallet')::bigint, -9223372036854775808);
    v_number bigint := coalesce((p_after->>'number')::bigint, 0);
    v_wallets bigint[];
    v_numbers bigint[];
BEGIN
    SELECT coalesce(array_agg(wallet_id ORDER BY wallet_id, number), '{}'), array_agg(number ORDER BY wallet_id, number)
      INTO v_wallets, v_numbers
      FROM (SELECT wallet_id, number FROM arrivals WHERE (wallet_id, number) > (v_wallet, v_number)
             ORDER BY wallet_id, number LIMIT p_most) a;
    RETURN slice_found(json_build_object('arrivals', cardinality(v_wallets)),
        CASE WHEN cardinality(v_wallets) = p_most THEN json_build_object('wallet', v_wallets[p_most], 'number', v_numbers[p_most]) END,
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_arrivals(v_wallets, v_numbers)));
END $$;
GRANT EXECUTE ON FUNCTION audit_arrivals(json, integer) TO okane_app;

-- p_after: {"bank", "webhook"}.
CREATE OR REPLACE FUNCTION audit_events(p_after json, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_bank text := coalesce(p_after->>'bank', '');
    v_webhook text := coalesce(p_after->>'webhook', '');
    v_banks text[];
    v_webhooks text[];
BEGIN
    SELECT coalesce(array_agg(bank ORDER BY bank, webhook_id), '{}'), array_agg(webhook_id ORDER BY bank, webhook_id)
      INTO v_banks, v_webhooks
      FROM (SELECT bank, webhook_id FROM bank_events WHERE (bank, webhook_id) > (v_bank, v_webhook)
             ORDER BY bank, webhook_id LIMIT p_most) e;
    RETURN slice_found(json_build_object('events', cardinality(v_banks)),
        CASE WHEN cardinality(v_banks) = p_most THEN json_build_object('bank', v_banks[p_most], 'webhook', v_webhooks[p_most]) END,
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_events(v_banks, v_webhooks)));
END $$;
GRANT EXECUTE ON FUNCTION audit_events(json, integer) TO okane_app;

-- p_after: {"batch"}.
CREATE OR REPLACE FUNCTION audit_batches(p_after json, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_batches uuid[] := ARRAY(SELECT id FROM batches
                               WHERE id >= coalesce((p_after->>'batch')::uuid, '00000000-0000-0000-0000-000000000000')
                                 AND id IS DISTINCT FROM (p_after->>'batch')::uuid ORDER BY id LIMIT p_most);
BEGIN
    RETURN slice_found(json_build_object('batches', cardinality(v_batches)),
        CASE WHEN cardinality(v_batches) = p_most THEN json_build_object('batch', v_batches[p_most]) END,
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_batches(v_batches)));
END $$;
GRANT EXECUTE ON FUNCTION audit_batches(json, integer) TO okane_app;

-- What is new: the first p_most transfers that were made or completed from "since" on, the wallets on both sides, and the lines that
-- those wallets got meanwhile. What counts for the limits is left to the full audit.
-- p_after: {"since": RFC 3339, the last hour if null, "until": null for ten seconds ago, when nothing older is under way any more}.
-- There is always a next slice; where its "since" is its "until", there is nothing to look at yet.
CREATE OR REPLACE FUNCTION audit_recent(p_after json, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_until timestamptz := coalesce((p_after->>'until')::timestamptz, now_ms() - interval '10 seconds');
    v_since timestamptz := coalesce((p_after->>'since')::timestamptz, v_until - interval '1 hour');
    v_reached timestamptz;
    v_transfers uuid[];
    v_wallets bigint[];
    v_low bigint[];
    v_high bigint[];
    v_sides bigint[];
BEGIN
    SELECT m.moment INTO v_reached
      FROM (SELECT created_at AS moment FROM transfers WHERE created_at >= v_since AND created_at < v_until
            UNION ALL SELECT completed_at FROM transfers
             WHERE completed_at >= v_since AND completed_at < v_until AND completed_at <> created_at) m
     ORDER BY 1 OFFSET p_most LIMIT 1;
    -- At least one millisecond, the unit of the clock of the books, so that there is always a step forward.
    v_reached := CASE WHEN v_reached IS NULL THEN v_until ELSE greatest(v_reached, v_since + interval '1 millisecond') END;
    v_transfers := ARRAY(SELECT id FROM transfers WHERE created_at >= v_since AND created_at < v_reached
                         UNION SELECT id FROM transfers WHERE completed_at >= v_since AND completed_at < v_reached);
    -- On each side from the first line that was written since, or the line before it, to the last one that these transfers have.
    SELECT array_agg(s.wallet_id) FILTER (WHERE s.high IS NOT NULL),
           array_agg(coalesce(b.seq, 0)) FILTER (WHERE s.high IS NOT NULL), array_agg(s.high) FILTER (WHERE s.high IS NOT NULL),
           coalesce(array_agg(s.wallet_id), '{}')
      INTO v_wallets, v_low, v_high, v_sides
      FROM (SELECT x.wallet_id, min(x.seq) AS low, max(x.seq) AS high
              FROM unnest(v_transfers) AS asked (id)
              JOIN transfers t ON t.id = asked.id
              LEFT JOIN entry_rows e ON e.transfer_id = t.id AND e.tag = 'folded' AND t.to_seq IS NULL
             CROSS JOIN LATERAL (VALUES (t.from_wallet, t.from_seq), (t.to_wallet, coalesce(t.to_seq, e.seq))) x (wallet_id, seq)
             GROUP BY x.wallet_id) s
      LEFT JOIN LATERAL (SELECT e.seq FROM entry_rows e JOIN transfers t ON t.id = e.transfer_id
                          WHERE e.wallet_id = s.wallet_id AND e.seq < s.low AND e.tag IS DISTINCT FROM 'folded'
                            AND written_at(e.tag, t) < v_since ORDER BY e.seq DESC LIMIT 1) b ON true;
    RETURN slice_found(
        json_build_object('transfers', cardinality(v_transfers), 'wallets', cardinality(v_sides)),
        json_build_object('since', v_reached, 'until', v_until),
        ARRAY(SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_transfers(v_transfers)
              UNION ALL SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_wallets(v_sides)
              UNION ALL
              SELECT difference(fault, wallet, transfer, said, actual) FROM faults_of_entries(v_wallets, v_low, v_high, false)));
END $$;
GRANT EXECUTE ON FUNCTION audit_recent(json, integer) TO okane_app;

-- Writes down what an audit found. -> {"audit": its number}
CREATE OR REPLACE FUNCTION record_audit(p_scope text, p_started_at timestamptz, p_checked json, p_differences json)
RETURNS json LANGUAGE sql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
    INSERT INTO audits (scope, started_at, finished_at, checked, differences)
    VALUES (p_scope, p_started_at, clock_timestamp(), p_checked, p_differences) RETURNING json_build_object('audit', id)
$$;
GRANT EXECUTE ON FUNCTION record_audit(text, timestamptz, json, json) TO okane_app;
