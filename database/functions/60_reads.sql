-- What a person may read. Every answer says first whether the session still lives, in the same round trip. What reads more than
-- one thing is STABLE, or calls something that is: its statements see one snapshot, so that a page and the version beside it belong
-- together. What shows lines of a receiving wallet folds first, and so is not.

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

-- A wallet as it was at a version that it has reached. At version 0 it had nothing, and that since its person signed up.
CREATE OR REPLACE FUNCTION wallet_at(w wallets, p_version bigint) RETURNS wallets LANGUAGE plpgsql STABLE AS $$
BEGIN
    w.version := p_version;
    IF p_version = 0 THEN
        w.available := 0;
        w.locked := 0;
        w.updated_at := (SELECT created_at FROM people WHERE id = w.person_id);
    ELSE
        SELECT available_after, locked_after, created_at INTO w.available, w.locked, w.updated_at
          FROM entries WHERE wallet_id = w.id AND seq = p_version;
    END IF;
    RETURN w;
END $$;

-- The wallet as it was at p_version; version is the present one.
-- -> {"outcome": "found", "version", "wallet": {...} | null for a version that it has not reached}
--  | {"outcome": "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION read_wallet_at(p_person uuid, p_session uuid, p_currency text, p_version bigint)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    w wallets;
    o wallets;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    PERFORM fold_before_reading(p_person, p_currency);
    SELECT * INTO w FROM wallets WHERE person_id = p_person AND currency = p_currency;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'not_found');
    ELSIF p_version > w.version THEN
        RETURN json_build_object('outcome', 'found', 'version', w.version, 'wallet', NULL);
    END IF;
    o := wallet_at(w, p_version);
    RETURN json_build_object('outcome', 'found', 'version', w.version, 'wallet', wallet_view(o));
END $$;
GRANT EXECUTE ON FUNCTION read_wallet_at(uuid, uuid, text, bigint) TO okane_app;

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

-- How far the time of an entry can lie behind that of an entry before it. Time runs the way versions do, but for what was
-- folded in: it has the time at which it was paid, and a slow payment is folded in after quicker ones. No statement of the
-- application takes more than three seconds (migrate.py).
CREATE OR REPLACE FUNCTION lateness() RETURNS interval LANGUAGE sql IMMUTABLE AS $$
    SELECT interval '10 seconds'
$$;

-- A number of entries after which a wallet, at version p_version, crosses p_bound: that entry lies before it, the next one
-- does not. Found by halving steps, with two look-ups for each, so that a million entries cost forty look-ups.
CREATE OR REPLACE FUNCTION crossing(p_wallet bigint, p_version bigint, p_bound timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_found bigint := 0;
    v_step bigint := 1;
BEGIN
    WHILE v_step <= p_version / 2 LOOP
        v_step := v_step * 2;
    END LOOP;
    WHILE v_step > 0 LOOP
        IF v_found + v_step <= p_version
           AND (SELECT created_at FROM entries WHERE wallet_id = p_wallet AND seq = v_found + v_step) < p_bound THEN
            v_found := v_found + v_step;
        END IF;
        v_step := v_step / 2;
    END LOOP;
    RETURN v_found;
END $$;

-- One page of a wallet's transactions, newest first: the opening entries below p_before, walked down the primary key,
-- so that the thousandth page costs what the first does. Times become bounds on the versions first. Where little fits, a page
-- looks at 2,000 entries and no more, which cold disks do within the time that a call has: it may then be short or empty, and
-- the next one goes on from last_seq as ever. One more row than asked for tells whether there is a next page. OFFSET 0 keeps the
-- planner from reading the transfers in any other way than one by one.
-- -> {"data": [...], "has_more", "last_seq"}
CREATE OR REPLACE FUNCTION history_page(p_wallet bigint, p_before bigint, p_limit integer, p_kind transfer_kind,
    p_status transfer_status, p_from timestamptz, p_to timestamptz)
RETURNS json LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_version bigint := (SELECT version FROM wallets WHERE id = p_wallet);
    v_last bigint := least(p_before - 1, v_version);  -- nothing above this is on the page
    v_end bigint := 0;                                -- nothing from here down is in the list
    v_floor bigint;                                   -- nor from here down on the page
BEGIN
    IF p_from IS NOT NULL THEN
        v_end := crossing(p_wallet, v_version, p_from - lateness());
    END IF;
    IF p_to IS NOT NULL THEN
        v_last := least(v_last, crossing(p_wallet, v_version, p_to + lateness()));
    END IF;
    v_floor := greatest(v_end, v_last - 2000);
    RETURN (
        SELECT json_build_object(
            'data', coalesce(json_agg(line.view ORDER BY line.seq DESC) FILTER (WHERE line.n <= p_limit), '[]'),
            'has_more', count(*) > p_limit OR v_floor > v_end,
            'last_seq', CASE WHEN count(*) <= p_limit AND v_floor > v_end THEN v_floor + 1
                             ELSE min(line.seq) FILTER (WHERE line.n <= p_limit) END)
          FROM (SELECT found.seq, row_number() OVER (ORDER BY found.seq DESC) AS n,
                       transaction_seen_from(found.t, p_wallet) AS view
                  FROM (SELECT e.seq, o.t
                          FROM entry_rows e
                         CROSS JOIN LATERAL (SELECT t FROM transfers t WHERE t.id = e.transfer_id OFFSET 0) o
                         WHERE e.wallet_id = p_wallet AND e.tag IS DISTINCT FROM 'closing'
                           AND e.seq > v_floor AND e.seq <= v_last
                           AND (p_kind IS NULL OR (o.t).kind = p_kind)
                           AND (p_status IS NULL OR (o.t).status = p_status)
                           AND (p_from IS NULL OR (o.t).created_at >= p_from)
                           AND (p_to IS NULL OR (o.t).created_at < p_to)
                         ORDER BY e.seq DESC LIMIT p_limit + 1) found) line
    );
END $$;

-- Before the owner of a receiving wallet reads its lines: what has arrived must be entries, to have numbers.
CREATE OR REPLACE FUNCTION fold_before_reading(p_person uuid, p_currency text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    w wallets;
BEGIN
    SELECT * INTO w FROM wallets WHERE person_id = p_person AND currency = p_currency AND has_received
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
