-- What a person may read. Every answer says first whether the session still lives, in the same round trip.

-- -> {"outcome": "found", "version", "profile"} | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION read_profile(p_person uuid, p_session uuid)
RETURNS json LANGUAGE sql STABLE SECURITY DEFINER SET search_path = okane, pg_temp AS $$
    SELECT CASE WHEN NOT session_live(p_person, p_session) THEN json_build_object('outcome', 'session_ended')
        ELSE (SELECT json_build_object('outcome', 'found', 'version', p.version, 'profile', profile_view(p))
                FROM people p WHERE p.id = p_person) END
$$;
GRANT EXECUTE ON FUNCTION read_profile(uuid, uuid) TO okane_app;

-- -> {"outcome": "found", "wallets": [...]} | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION read_wallets(p_person uuid, p_session uuid)
RETURNS json LANGUAGE sql STABLE SECURITY DEFINER SET search_path = okane, pg_temp AS $$
    SELECT CASE WHEN NOT session_live(p_person, p_session) THEN json_build_object('outcome', 'session_ended')
        ELSE (SELECT json_build_object('outcome', 'found', 'wallets', coalesce(json_agg(wallet_view(w) ORDER BY w.currency), '[]'))
                FROM wallets w WHERE w.person_id = p_person) END
$$;
GRANT EXECUTE ON FUNCTION read_wallets(uuid, uuid) TO okane_app;

-- -> {"outcome": "found", "wallet"} | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_wallet(p_person uuid, p_session uuid, p_currency text)
RETURNS json LANGUAGE sql STABLE SECURITY DEFINER SET search_path = okane, pg_temp AS $$
    SELECT CASE WHEN NOT session_live(p_person, p_session) THEN json_build_object('outcome', 'session_ended')
        ELSE coalesce((SELECT json_build_object('outcome', 'found', 'wallet', wallet_view(w))
                         FROM wallets w WHERE w.person_id = p_person AND w.currency = p_currency),
                      json_build_object('outcome', 'not_found')) END
$$;
GRANT EXECUTE ON FUNCTION read_wallet(uuid, uuid, text) TO okane_app;

-- -> {"outcome": "made" | "found", "wallet"} | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION open_wallet(p_person uuid, p_session uuid, p_currency text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER SET search_path = okane, pg_temp AS $$
DECLARE
    v_outcome text;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    INSERT INTO wallets (person_id, currency) VALUES (p_person, p_currency) ON CONFLICT DO NOTHING;
    v_outcome := CASE WHEN FOUND THEN 'made' ELSE 'found' END;
    RETURN (SELECT json_build_object('outcome', v_outcome, 'wallet', wallet_view(w))
              FROM wallets w WHERE w.person_id = p_person AND w.currency = p_currency);
END $$;
GRANT EXECUTE ON FUNCTION open_wallet(uuid, uuid, text) TO okane_app;

-- One page of a wallet's transactions, newest first: the opening entries below p_before, walked down the primary key,
-- so that the thousandth page costs what the first does. One more row than asked for tells whether there is a next page.
CREATE OR REPLACE FUNCTION history_page(p_wallet uuid, p_before bigint, p_limit integer, p_kind transfer_kind,
    p_status transfer_status, p_from timestamptz, p_to timestamptz)
RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'data', coalesce(json_agg(page.view ORDER BY page.seq DESC) FILTER (WHERE page.n <= p_limit), '[]'),
        'has_more', count(*) > p_limit,
        'last_seq', min(page.seq) FILTER (WHERE page.n <= p_limit))
      FROM (SELECT found.seq, row_number() OVER (ORDER BY found.seq DESC) AS n, transaction_view(found.t, p_wallet) AS view
              FROM (SELECT e.seq, t FROM entries e JOIN transfers t ON t.id = e.transfer_id
                     WHERE e.wallet_id = p_wallet AND e.opening AND e.seq < p_before
                       AND (p_kind IS NULL OR t.kind = p_kind)
                       AND (p_status IS NULL OR t.status = p_status)
                       AND (p_from IS NULL OR t.created_at >= p_from)
                       AND (p_to IS NULL OR t.created_at < p_to)
                     ORDER BY e.seq DESC LIMIT p_limit + 1) found) page
$$;

-- -> {"outcome": "found", "version", "page": {"data", "has_more", "last_seq"}} | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_history(p_person uuid, p_session uuid, p_currency text, p_before bigint, p_limit integer,
    p_kind transfer_kind, p_status transfer_status, p_from timestamptz, p_to timestamptz)
RETURNS json LANGUAGE sql STABLE SECURITY DEFINER SET search_path = okane, pg_temp AS $$
    SELECT CASE WHEN NOT session_live(p_person, p_session) THEN json_build_object('outcome', 'session_ended')
        ELSE coalesce((SELECT json_build_object('outcome', 'found', 'version', w.version,
                              'page', history_page(w.id, p_before, p_limit, p_kind, p_status, p_from, p_to))
                         FROM wallets w WHERE w.person_id = p_person AND w.currency = p_currency),
                      json_build_object('outcome', 'not_found')) END
$$;
GRANT EXECUTE ON FUNCTION read_history(uuid, uuid, text, bigint, integer, transfer_kind, transfer_status, timestamptz,
                                       timestamptz) TO okane_app;

-- One transaction, to a person on either of its sides who has an entry of it. p_kinds narrows what counts as found.
-- -> {"outcome": "found", "transaction"} | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_transaction(p_person uuid, p_session uuid, p_id uuid, p_kinds transfer_kind[])
RETURNS json LANGUAGE sql STABLE SECURITY DEFINER SET search_path = okane, pg_temp AS $$
    SELECT CASE WHEN NOT session_live(p_person, p_session) THEN json_build_object('outcome', 'session_ended')
        ELSE coalesce((SELECT json_build_object('outcome', 'found', 'transaction', transaction_view(t, w.id))
                         FROM transfers t JOIN wallets w
                           ON w.person_id = p_person AND ((w.id = t.from_wallet AND t.from_seq IS NOT NULL)
                                                       OR (w.id = t.to_wallet AND t.to_seq IS NOT NULL))
                        WHERE t.id = p_id AND t.kind = ANY (p_kinds)),
                      json_build_object('outcome', 'not_found')) END
$$;
GRANT EXECUTE ON FUNCTION read_transaction(uuid, uuid, uuid, transfer_kind[]) TO okane_app;
