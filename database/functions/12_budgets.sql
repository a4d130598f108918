-- How often somebody may try. Counted here and not in Redis, so that it holds whatever becomes of the cache.

-- Takes p_cost from a budget of p_cap per p_seconds. Returns the seconds to wait, 0 when there was enough.
CREATE OR REPLACE FUNCTION spend(p_key text, p_cost integer, p_cap integer, p_seconds integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    b budgets;
BEGIN
    INSERT INTO budgets AS old VALUES (p_key, clock_timestamp(), p_cost)
    ON CONFLICT (key) DO UPDATE SET
        started_at = CASE WHEN old.started_at + make_interval(secs => p_seconds) <= clock_timestamp()
                          THEN clock_timestamp() ELSE old.started_at END,
        spent = CASE WHEN old.started_at + make_interval(secs => p_seconds) <= clock_timestamp()
                     THEN p_cost ELSE least(old.spent + p_cost, p_cap + 1) END
    RETURNING old.* INTO b;
    IF b.spent <= p_cap THEN
        RETURN 0;
    END IF;
    RETURN greatest(1, ceil(extract(epoch FROM b.started_at - clock_timestamp()) + p_seconds));
END $$;

-- Whether the account of this address has been signed in to from this network lately: its owner is probably there.
CREATE OR REPLACE FUNCTION is_at_home(p_email text, p_source text) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT EXISTS (SELECT FROM people p JOIN sessions s ON s.person_id = p.id
                        WHERE p.email = p_email AND s.source = p_source
                          AND s.created_at > clock_timestamp() - interval '90 days')
    );
END $$;

-- One try at the door. Counted by network, by address and network, and by address, the same for known and unknown addresses.
-- The windows are short, and where the owner has signed in before, what strangers have used up elsewhere does not count: nobody
-- can keep an owner out. Returns the seconds to wait, 0 when the try may be made.
--
--              counts                         one network   one address from it   one address   in seconds
--   sign_up    mails to new people, unproved          300                    10            12         3600
--   forgot     mails with a code                      100                    10            12         3600
--   verify     codes tried after a sign-up            100                    10            15          900
--   reset      codes tried for a new password         100                    10            15          900
--   log_in     passwords tried, wrong ones            100                    10           100          900
CREATE OR REPLACE FUNCTION knock(p_what text, p_email text, p_source text) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_seconds integer := CASE WHEN p_what IN ('sign_up', 'forgot') THEN 3600 ELSE 900 END;
    v_wait integer;
BEGIN
    IF p_source = '' THEN  -- code of before, which a deployment replaces in a while, knows no networks
        RETURN spend(p_what || ':' || p_email, 1, 50, v_seconds);
    END IF;
    v_wait := spend(p_what || '_from:' || p_source, 1, CASE p_what WHEN 'sign_up' THEN 300 ELSE 100 END, v_seconds);
    IF v_wait = 0 THEN
        v_wait := spend(p_what || ':' || p_email || ':' || p_source, 1, 10, v_seconds);
    END IF;
    IF v_wait = 0 AND NOT is_at_home(p_email, p_source) THEN
        v_wait := spend(p_what || ':' || p_email, 1,
                        CASE p_what WHEN 'log_in' THEN 100 WHEN 'sign_up' THEN 12 WHEN 'forgot' THEN 12 ELSE 15 END, v_seconds);
    END IF;
    RETURN v_wait;
END $$;

-- The try was right: it costs its network nothing, and the address starts anew.
CREATE OR REPLACE FUNCTION welcome(p_what text, p_email text, p_source text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE budgets SET spent = greatest(spent - 1, 0) WHERE key = p_what || '_from:' || p_source;
    PERFORM forget_tries(p_what, p_email, p_source);
END $$;

-- The address starts anew. One row after the other, in the order in which knock() takes them.
CREATE OR REPLACE FUNCTION forget_tries(p_what text, p_email text, p_source text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM budgets WHERE key = p_what || ':' || p_email || ':' || p_source;
    DELETE FROM budgets WHERE key = p_what || ':' || p_email;
END $$;

-- A token or code of 256 random bits that nobody has: no address to count by. -> the outcome, or rate_limited
CREATE OR REPLACE FUNCTION missed(p_outcome text, p_source text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_wait integer := spend('missed_from:' || p_source, 1, 100, 900);
BEGIN
    RETURN CASE WHEN v_wait > 0 THEN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait)
                ELSE json_build_object('outcome', p_outcome) END;
END $$;
