-- What an operator does, as the database's owner. Nothing here is granted to the application.

-- Freezes a person's wallet for debit, credit or both, or thaws it; flags it as receiving, or not. Null leaves as it is.
-- -> {"outcome": "done", "wallet": {"currency", "debit_frozen", "credit_frozen", "receiving"}} | {"outcome": "not_found"}
CREATE OR REPLACE FUNCTION switch_wallet(p_handle text, p_currency text, p_debit_frozen boolean, p_credit_frozen boolean,
                                         p_receiving boolean)
RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    w wallets;
BEGIN
    SELECT * INTO w FROM wallets
     WHERE person_id = (SELECT id FROM people WHERE handle = p_handle) AND currency = p_currency FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'not_found');
    END IF;
    UPDATE wallets SET debit_frozen = coalesce(p_debit_frozen, debit_frozen),
           credit_frozen = coalesce(p_credit_frozen, credit_frozen), receiving = coalesce(p_receiving, receiving),
           has_received = has_received OR coalesce(p_receiving, false)
     WHERE id = w.id RETURNING * INTO w;
    PERFORM fold(w);
    RETURN json_build_object('outcome', 'done', 'wallet', json_build_object('currency', w.currency,
        'debit_frozen', w.debit_frozen, 'credit_frozen', w.credit_frozen, 'receiving', w.receiving));
END $$;

-- The live sessions of one person, or of everybody where p_handle is null; ends them if p_end. Warm reads learn of it from the next
-- run of the cache warmer, within a minute.
-- -> {"outcome": "done", "sessions": count} | {"outcome": "not_found"}
CREATE OR REPLACE FUNCTION sessions_of(p_handle text, p_end boolean) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_person uuid;
    v_count integer;
BEGIN
    IF p_handle IS NOT NULL THEN
        SELECT id INTO v_person FROM people WHERE handle = p_handle;
        IF NOT FOUND THEN
            RETURN json_build_object('outcome', 'not_found');
        END IF;
    END IF;
    SELECT count(*) INTO v_count FROM sessions
     WHERE (v_person IS NULL OR person_id = v_person) AND ended_at IS NULL AND expires_at > clock_timestamp();
    IF p_end THEN
        UPDATE sessions SET ended_at = clock_timestamp()
         WHERE (v_person IS NULL OR person_id = v_person) AND ended_at IS NULL AND expires_at > clock_timestamp();
        GET DIAGNOSTICS v_count = ROW_COUNT;
    END IF;
    RETURN json_build_object('outcome', 'done', 'sessions', v_count);
END $$;

-- Sets what may be paid out per currency; a row of nulls is no limit at all. Who has been paid before is known from then on.
CREATE OR REPLACE FUNCTION set_limits(p limits) RETURNS json LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM limits WHERE currency = p.currency;
    INSERT INTO limits VALUES (p.*);
    IF p.new_recipient IS NOT NULL THEN
        INSERT INTO payees SELECT DISTINCT from_wallet, to_wallet FROM transfers
         WHERE kind = 'transfer' AND status = 'Success' AND currency = p.currency
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN (SELECT to_json(l) FROM limits l WHERE l.currency = p.currency);
END $$;

-- Withdrawals that no bank has ended yet, the oldest first; accounts by their last four characters.
-- -> {"withdrawals": [{"id", "since", "bank", "amount", "currency", "handle", "account"}]}
CREATE OR REPLACE FUNCTION open_withdrawals() RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT json_build_object('withdrawals', coalesce(json_agg(json_build_object('id', t.id, 'since', moment(t.created_at),
                   'bank', t.asked, 'amount', t.amount, 'currency', t.currency, 'handle', p.handle,
                   'account', '****' || right(t.account, 4)) ORDER BY t.created_at, t.id), '[]'))
          FROM transfers t JOIN wallets w ON w.id = t.from_wallet LEFT JOIN people p ON p.id = w.person_id
         WHERE t.status = 'Processing' AND t.kind = 'withdrawal'
    );
END $$;
