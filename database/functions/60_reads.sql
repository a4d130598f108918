-- What a person may read. Every answer says first whether the session still lives, in the same round trip. All are STABLE:
-- their statements see one snapshot, so that a page and the version beside it belong together.

-- -> {"outcome": "found", "version", "profile"} | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION read_profile(p_person uuid, p_session uuid)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    p people;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    SELECT * INTO p FROM people WHERE id = p_person;
    RETURN json_build_object('outcome', 'found', 'version', p.version, 'profile', profile_view(p));
END $$;
GRANT EXECUTE ON FUNCTION read_profile(uuid, uuid) TO okane_app;

-- -> {"outcome": "found", "wallets": [...]} | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION read_wallets(p_person uuid, p_session uuid)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    RETURN (SELECT json_build_object('outcome', 'found',
                                     'wallets', coalesce(json_agg(wallet_view(with_arrivals(w)) ORDER BY w.currency), '[]'))
              FROM wallets w WHERE w.person_id = p_person);
END $$;
GRANT EXECUTE ON FUNCTION read_wallets(uuid, uuid) TO okane_app;

-- keep: whether the cache may keep it. A receiving wallet changes too fast for that.
-- -> {"outcome": "found", "wallet", "keep": boolean} | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_wallet(p_person uuid, p_session uuid, p_currency text)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    w wallets;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    SELECT * INTO w FROM wallets WHERE person_id = p_person AND currency = p_currency;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    RETURN json_build_object('outcome', 'found', 'wallet', wallet_view(with_arrivals(w)), 'keep', NOT w.receiving);
END $$;
GRANT EXECUTE ON FUNCTION read_wallet(uuid, uuid, text) TO okane_app;

-- -> {"outcome": "made" | "found", "wallet"} | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION open_wallet(p_person uuid, p_session uuid, p_currency text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_outcome text;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    INSERT INTO wallets (person_id, currency) VALUES (p_person, p_currency) ON CONFLICT DO NOTHING;
    v_outcome := CASE WHEN FOUND THEN 'made' ELSE 'found' END;
    RETURN (SELECT json_build_object('outcome', v_outcome, 'wallet', wallet_view(with_arrivals(w)))
              FROM wallets w WHERE w.person_id = p_person AND w.currency = p_currency);
END $$;
GRANT EXECUTE ON FUNCTION open_wallet(uuid, uuid, text) TO okane_app;

-- One page of a wallet's transactions, newest first: the opening entries below p_before, walked down the primary key,
-- so that the thousandth page costs what the first does. One more row than asked for tells whether there is a next page.
-- -> {"data": [...], "has_more", "last_seq"}
CREATE OR REPLACE FUNCTION history_page(p_wallet bigint, p_before bigint, p_limit integer, p_kind transfer_kind,
    p_status transfer_status, p_from timestamptz, p_to timestamptz)
RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT json_build_object(
            'data', coalesce(json_agg(line.view ORDER BY line.seq DESC) FILTER (WHERE line.n <= p_limit), '[]'),
            'has_more', count(*) > p_limit,
            'last_seq', min(line.seq) FILTER (WHERE line.n <= p_limit))
          FROM (SELECT found.seq, row_number() OVER (ORDER BY found.seq DESC) AS n,
                       transaction_seen_from(found.t, p_wallet) AS view
                  FROM (SELECT e.seq, t FROM entry_rows e JOIN transfers t ON t.id = e.transfer_id
                         WHERE e.wallet_id = p_wallet AND e.tag IS DISTINCT FROM 'closing' AND e.seq < p_before
                           AND (p_kind IS NULL OR t.kind = p_kind)
                           AND (p_status IS NULL OR t.status = p_status)
                           AND (p_from IS NULL OR t.created_at >= p_from)
                           AND (p_to IS NULL OR t.created_at < p_to)
                         ORDER BY e.seq DESC LIMIT p_limit + 1) found) line
    );
END $$;

-- Before the owner of a receiving wallet reads its lines: what has arrived must be entries, to have numbers.
CREATE OR REPLACE FUNCTION fold_before_reading(p_person uuid, p_currency text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    w wallets;
BEGIN
    SELECT * INTO w FROM wallets WHERE person_id = p_person AND currency = p_currency
       AND EXISTS (SELECT FROM arrivals WHERE wallet_id = id) FOR NO KEY UPDATE;
    IF FOUND THEN
        PERFORM fold(w);
    END IF;
END $$;

-- STABLE, so that the page and the version are of one moment.
CREATE OR REPLACE FUNCTION history_view(p_person uuid, p_currency text, p_before bigint, p_limit integer,
    p_kind transfer_kind, p_status transfer_status, p_from timestamptz, p_to timestamptz)
RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    w wallets;
BEGIN
    SELECT * INTO w FROM wallets WHERE person_id = p_person AND currency = p_currency;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    RETURN json_build_object('outcome', 'found', 'version', w.version, 'keep', NOT w.receiving,
        'page', history_page(w.id, p_before, p_limit, p_kind, p_status, p_from, p_to));
END $$;

-- -> {"outcome": "found", "version", "keep", "page": {"data", "has_more", "last_seq"}}
--  | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_history(p_person uuid, p_session uuid, p_currency text, p_before bigint, p_limit integer,
    p_kind transfer_kind, p_status transfer_status, p_from timestamptz, p_to timestamptz)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    PERFORM fold_before_reading(p_person, p_currency);
    RETURN history_view(p_person, p_currency, p_before, p_limit, p_kind, p_status, p_from, p_to);
END $$;
GRANT EXECUTE ON FUNCTION read_history(uuid, uuid, text, bigint, integer, transfer_kind, transfer_status, timestamptz,
                                       timestamptz) TO okane_app;

-- One transaction, to a person on either of its sides. What was refused at once has only its payer's side. p_kinds narrows
-- what counts as found.
-- -> {"outcome": "found", "transaction"} | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_transaction(p_person uuid, p_session uuid, p_id uuid, p_kinds transfer_kind[])
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    t transfers;
    v_wallet bigint;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    SELECT * INTO t FROM transfers WHERE id = p_id AND kind = ANY (p_kinds);
    SELECT id INTO v_wallet FROM wallets WHERE person_id = p_person AND id IN (t.from_wallet, t.to_wallet);
    PERFORM show_arrivals(t, v_wallet);
    IF (latest_entry(t, v_wallet)).seq IS NULL THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    RETURN json_build_object('outcome', 'found', 'transaction', transaction_seen_from(t, v_wallet));
END $$;
GRANT EXECUTE ON FUNCTION read_transaction(uuid, uuid, uuid, transfer_kind[]) TO okane_app;
