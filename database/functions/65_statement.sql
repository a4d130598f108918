-- Monthly statements: every entry of a wallet in the order of versions, between two balances. A month (of UTC) is a range of
-- versions, so that each entry is in exactly one of them and a month opens with what the one before has closed with.

-- The version that a wallet, now at p_version, had when p_bound came: what precedes its first entry at or after p_bound. No entry
-- that is written later can change that. (One that is folded in later can be of an earlier time; it stays where it is written.)
CREATE OR REPLACE FUNCTION version_before(p_wallet bigint, p_version bigint, p_bound timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_sure bigint := crossing(p_wallet, p_version, p_bound - lateness());  -- up to here all are before p_bound
BEGIN
    RETURN coalesce((SELECT seq - 1 FROM entries
                      WHERE wallet_id = p_wallet AND seq > v_sure AND seq <= p_version AND created_at >= p_bound
                      ORDER BY seq LIMIT 1), p_version);
END $$;

-- -> {"available", "locked", "total", "version"}
CREATE OR REPLACE FUNCTION balance_view(w wallets) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('available', w.available, 'locked', w.locked, 'total', w.available + w.locked, 'version', w.version)
$$;

-- The entries of a wallet above version p_after, up to p_last. The status of a line is what the transaction had come to with it,
-- which nothing changes later: where another entry closes the transaction on this wallet, it was Processing until then. OFFSET 0
-- and the query in the line keep the planner from reading whole tables for what it takes for many lines.
-- -> [line]
CREATE OR REPLACE FUNCTION statement_lines(p_wallet bigint, p_after bigint, p_last bigint) RETURNS json
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT coalesce(json_agg(json_build_object(
                   'version', e.seq,
                   'at', moment(CASE WHEN e.tag = 'closing' THEN t.completed_at ELSE t.created_at END),
                   'transaction_id', t.id,
                   'kind', t.kind,
                   'direction', CASE p_wallet WHEN t.from_wallet THEN 'out' ELSE 'in' END,
                   'stage', CASE WHEN e.tag = 'closing' THEN 'closing' ELSE 'opening' END,
                   'status', CASE WHEN e.seq < CASE p_wallet WHEN t.from_wallet THEN t.from_seq ELSE t.to_seq END
                                  THEN 'Processing' ELSE t.status END,
                   'counterparty', (SELECT counterparty_view(o.party, p.handle, p.name, t.status)
                                      FROM wallets o LEFT JOIN people p ON p.id = o.person_id
                                     WHERE o.id = CASE p_wallet WHEN t.from_wallet THEN t.to_wallet ELSE t.from_wallet END),
                   'note', t.note,
                   'available_change', e.available_delta,
                   'locked_change', coalesce(e.locked_delta, 0),
                   'available_after', e.available_after,
                   'locked_after', coalesce(e.locked_after, 0)) ORDER BY e.seq), '[]')
          FROM entry_rows e
         CROSS JOIN LATERAL (SELECT * FROM transfers WHERE id = e.transfer_id OFFSET 0) t
         WHERE e.wallet_id = p_wallet AND e.seq > p_after AND e.seq <= p_last
    );
END $$;

-- STABLE, so that the versions, the lines and the balances are of one moment.
CREATE OR REPLACE FUNCTION statement_view(p_person uuid, p_currency text, p_month date, p_after bigint, p_most integer)
RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    w wallets;
    opening wallets;
    closing wallets;
    v_from timestamptz := p_month::timestamp AT TIME ZONE 'UTC';
    v_to timestamptz := (p_month + interval '1 month') AT TIME ZONE 'UTC';
    v_end bigint;
BEGIN
    SELECT * INTO w FROM wallets WHERE person_id = p_person AND currency = p_currency;
    IF NOT FOUND OR v_from > clock_timestamp() THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    v_end := version_before(w.id, w.version, v_to);
    opening := wallet_at(w, greatest(p_after, version_before(w.id, w.version, v_from)));
    closing := wallet_at(w, greatest(opening.version, least(opening.version + p_most, v_end)));
    RETURN json_build_object('outcome', 'found', 'next', CASE WHEN closing.version < v_end THEN closing.version END,
        'statement', json_build_object('currency', w.currency, 'month', to_char(p_month, 'YYYY-MM'),
            'from', moment(v_from), 'to', moment(v_to), 'final', clock_timestamp() >= v_to + lateness(),
            'opening', balance_view(opening), 'lines', statement_lines(w.id, opening.version, closing.version),
            'closing', balance_view(closing)));
END $$;

-- The statement of a month that has begun, given by its first day: p_most lines of it above version p_after, which is 0 for the
-- beginning. next: what p_after is for the lines that are left.
-- -> {"outcome": "found", "next": version | null, "statement": {"currency", "month", "from", "to", "final", "opening", "lines",
--     "closing"}}
--  | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_statement(p_person uuid, p_session uuid, p_currency text, p_month date, p_after bigint,
                                          p_most integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    PERFORM fold_before_reading(p_person, p_currency);
    RETURN statement_view(p_person, p_currency, p_month, p_after, p_most);
END $$;
GRANT EXECUTE ON FUNCTION read_statement(uuid, uuid, text, date, bigint, integer) TO okane_app;
