-- How much may leave a wallet. Everything here is called under the wallet's lock, in the call that moves the money, so
-- that requests side by side can never exceed a limit together.

-- Puts a wallet's counters on p_day: a day that is over moves to wallet_days, and the sum of the 29 days before p_day is made
-- anew. A clock that steps back stays on the later day. Returns the wallet as it is afterwards.
CREATE OR REPLACE FUNCTION turn_day(p_wallet bigint, p_day date) RETURNS wallets LANGUAGE plpgsql AS $$
DECLARE
    w wallets;
BEGIN
    SELECT * INTO w FROM wallets WHERE id = p_wallet;
    IF w.day >= p_day THEN
        RETURN w;
    ELSIF w.day_count > 0 THEN
        INSERT INTO wallet_days VALUES (w.id, w.day, w.day_amount, w.day_count);
    END IF;
    UPDATE wallets SET day = p_day, day_amount = 0, day_count = 0,
           (earlier_amount, earlier_count) = (SELECT coalesce(sum(amount), 0), coalesce(sum(count), 0) FROM wallet_days
                                               WHERE wallet_id = p_wallet AND day BETWEEN p_day - 29 AND p_day - 1)
     WHERE id = p_wallet RETURNING * INTO w;
    RETURN w;
END $$;

-- Takes p_amount minor units of a payment made at p_at out of what counts: they were given back. p_whole: nothing of that payment
-- is left to count.
CREATE OR REPLACE FUNCTION count_back(p_wallet bigint, p_at timestamptz, p_amount bigint, p_whole boolean) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_day date := (p_at AT TIME ZONE 'UTC')::date;
    v_count bigint := p_whole::integer;
BEGIN
    UPDATE wallets SET day_amount = day_amount - p_amount, day_count = day_count - v_count WHERE id = p_wallet AND day = v_day;
    IF NOT FOUND THEN
        UPDATE wallet_days SET amount = amount - p_amount, count = count - v_count WHERE wallet_id = p_wallet AND day = v_day;
        UPDATE wallets SET earlier_amount = earlier_amount - p_amount, earlier_count = earlier_count - v_count
         WHERE id = p_wallet AND v_day >= day - 29;
    END IF;
END $$;

-- A limit that would be exceeded, as the API shows it; null when it would not. p_used without the payment; p_resets_at is told
-- only where the payment alone is within the cap, so that waiting helps.
CREATE OR REPLACE FUNCTION over_limit(p_name text, p_used numeric, p_more bigint, p_cap bigint, p_resets_at timestamptz)
RETURNS json LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN p_used + p_more > p_cap
                THEN json_build_object('name', p_name, 'used', p_used, 'cap', p_cap,
                                       'resets_at', CASE WHEN p_more <= p_cap THEN moment(p_resets_at) END) END
$$;

-- When thirty days have room again for p_more: the first midnight by which enough of what was paid has left them, or, where
-- that never happens, by which the first of it has. p_of: amounts in minor units, or numbers of payments.
CREATE OR REPLACE FUNCTION month_resets_at(w wallets, p_amounts boolean, p_more bigint, p_cap bigint) RETURNS timestamptz
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT (coalesce(min(d.day) FILTER (WHERE d.left_after + p_more <= p_cap), min(d.day), w.day) + 30)::timestamp
               AT TIME ZONE 'UTC'
          FROM (SELECT day, sum(used) OVER (ORDER BY day DESC) - used AS left_after
                  FROM (SELECT day, CASE WHEN p_amounts THEN amount ELSE count END AS used FROM wallet_days
                         WHERE wallet_id = w.id AND day BETWEEN w.day - 29 AND w.day - 1
                        UNION ALL SELECT w.day, CASE WHEN p_amounts THEN w.day_amount ELSE w.day_count END) days
                 WHERE used > 0) d
    );
END $$;

-- The first limit that a payment of p_amount minor units out of w would exceed: {"name", "used", "cap", "resets_at"}, or null.
-- w has its counters on today; p_payee is null for a withdrawal.
CREATE OR REPLACE FUNCTION limit_exceeded(w wallets, p_amount bigint, p_payee bigint) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    l limits;
    v_midnight timestamptz := (w.day + 1)::timestamp AT TIME ZONE 'UTC';
    v_old_enough timestamptz;
    v_over json;
BEGIN
    SELECT * INTO l FROM limits WHERE currency = w.currency;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    v_over := coalesce(
        over_limit('payment', 0, p_amount, l.payment, NULL),
        over_limit('day_amount', w.day_amount, p_amount, l.day_amount, v_midnight),
        over_limit('day_count', w.day_count, 1, l.day_count, v_midnight),
        over_limit('month_amount', w.earlier_amount + w.day_amount, p_amount, l.month_amount,
                   month_resets_at(w, true, p_amount, l.month_amount)),
        over_limit('month_count', w.earlier_count + w.day_count, 1, l.month_count,
                   month_resets_at(w, false, 1, l.month_count)));
    IF v_over IS NULL AND l.new_account IS NOT NULL THEN
        SELECT created_at + make_interval(days => l.new_account_days) INTO v_old_enough FROM people WHERE id = w.person_id;
        IF v_old_enough > clock_timestamp() THEN
            v_over := over_limit('new_account', w.day_amount, p_amount, l.new_account, least(v_midnight, v_old_enough));
            IF p_amount > l.new_account THEN  -- tomorrow is no better, but an older account is
                v_over := over_limit('new_account', w.day_amount, p_amount, l.new_account, NULL)::jsonb
                          || jsonb_build_object('resets_at', moment(v_old_enough));
            END IF;
        END IF;
    END IF;
    IF v_over IS NULL AND p_amount > l.new_recipient AND p_payee IS NOT NULL
       AND NOT EXISTS (SELECT FROM payees WHERE from_wallet = w.id AND to_wallet = p_payee) THEN
        v_over := over_limit('new_recipient', 0, p_amount, l.new_recipient, NULL);
    END IF;
    RETURN v_over;
END $$;

-- Remembers that p_payee has been paid, where that matters.
CREATE OR REPLACE FUNCTION know_payee(w wallets, p_payee bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO payees SELECT w.id, p_payee FROM limits WHERE currency = w.currency AND new_recipient IS NOT NULL
    ON CONFLICT DO NOTHING;
END $$;
