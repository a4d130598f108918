-- How rows look to the people they belong to. Called inside the functions below, never by the application.

-- RFC 3339 in UTC with milliseconds.
CREATE OR REPLACE FUNCTION moment(t timestamptz) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- The clock of the books. Read after the locks, so that time runs the way versions do.
CREATE OR REPLACE FUNCTION now_ms() RETURNS timestamptz LANGUAGE sql VOLATILE AS $$
    SELECT date_trunc('milliseconds', clock_timestamp())
$$;

CREATE OR REPLACE FUNCTION session_live(p_person uuid, p_session uuid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT FROM sessions WHERE id = p_session AND person_id = p_person
                                          AND ended_at IS NULL AND expires_at > clock_timestamp())
$$;

CREATE OR REPLACE FUNCTION wallet_view(w wallets) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('currency', w.currency, 'available', w.available, 'locked', w.locked,
        'total', w.available + w.locked, 'version', w.version, 'as_of', moment(w.updated_at))
$$;

CREATE OR REPLACE FUNCTION profile_view(p people) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object('id', p.id, 'email', p.email, 'name', p.name, 'handle', p.handle,
        'email_verified', true, 'created_at', moment(p.created_at))
$$;

-- The people's wallets among p_wallets, as the cache wants them: what a change must publish.
CREATE OR REPLACE FUNCTION changed_wallets(VARIADIC p_wallets uuid[]) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT coalesce(json_agg(json_build_object('person_id', w.person_id, 'wallet', wallet_view(w))), '[]')
      FROM wallets w WHERE w.id = ANY (p_wallets) AND w.person_id IS NOT NULL
$$;

CREATE OR REPLACE FUNCTION failure_view(p_code text) RETURNS json LANGUAGE sql IMMUTABLE AS $$
    SELECT json_build_object('code', p_code, 'message', CASE p_code
        WHEN 'insufficient_funds' THEN 'The available balance was lower than the amount.'
        WHEN 'limit_exceeded' THEN 'The payment would have exceeded a limit.'
        WHEN 'declined' THEN 'The bank declined the payment.'
        ELSE 'The transaction did not take place.' END)
     WHERE p_code IS NOT NULL
$$;

-- A transfer as the owner of p_wallet, one of its two sides, sees it.
CREATE OR REPLACE FUNCTION transaction_view(t transfers, p_wallet uuid) RETURNS json LANGUAGE sql STABLE AS $$
    SELECT json_build_object(
        'id', t.id,
        'kind', t.kind,
        'direction', CASE WHEN t.from_wallet = p_wallet THEN 'out' ELSE 'in' END,
        'status', t.status,
        'amount', t.amount,
        'currency', t.currency,
        'counterparty', CASE WHEN o.party IS NULL THEN json_build_object('handle', p.handle, 'name', p.name)
                             ELSE json_build_object('bank', substr(o.party, length('bank:') + 1)) END,
        'note', t.note,
        'refunded_amount', CASE WHEN t.kind = 'transfer' AND t.status = 'Success' THEN 0 END,
        'captured_amount', CASE WHEN t.kind = 'transfer' AND t.status = 'Success' THEN t.amount END,
        'balance_after', e.available_after,
        'wallet_version', e.seq,
        'failure', failure_view(t.failure_code),
        'created_at', moment(t.created_at),
        'completed_at', moment(t.completed_at),
        'expires_at', moment(t.expires_at),
        'payment_url', CASE WHEN t.status = 'Processing' THEN t.payment_url END,
        'refund_of', NULL)
      FROM entries e
      JOIN wallets o ON o.id = CASE WHEN t.from_wallet = p_wallet THEN t.to_wallet ELSE t.from_wallet END
      LEFT JOIN people p ON p.id = o.person_id
     WHERE e.wallet_id = p_wallet
       AND e.seq = CASE WHEN t.from_wallet = p_wallet THEN t.from_seq ELSE t.to_seq END
$$;
