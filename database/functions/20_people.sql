-- Signing up, and who people are.

-- Records an attempt to sign up. Known and unknown addresses take the same steps; only the mail differs.
-- -> {"outcome": "recorded", "known": bool} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION sign_up(p_email text, p_name text, p_handles text[], p_password_hash text,
                                   p_code_hash bytea, p_code_seconds integer, p_source text DEFAULT '')
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_wait integer;
BEGIN
    -- The attempts before the budgets, in the order in which verify_email takes them: neither waits for the other in a circle.
    PERFORM FROM sign_ups WHERE email = p_email ORDER BY id FOR UPDATE;
    v_wait := knock('sign_up', p_email, p_source);
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    INSERT INTO sign_ups (email, name, handles, password_hash, code_hash, source, expires_at)
    VALUES (p_email, p_name, p_handles, p_password_hash, p_code_hash, p_source,
            clock_timestamp() + make_interval(secs => p_code_seconds));
    -- Three live attempts are enough for any honest person, and keep a guess unlikely; a stranger's push out none of somebody else's.
    DELETE FROM sign_ups WHERE email = p_email AND source = p_source
       AND id NOT IN (SELECT id FROM sign_ups WHERE email = p_email AND source = p_source ORDER BY id DESC LIMIT 3);
    RETURN json_build_object('outcome', 'recorded', 'known', EXISTS (SELECT FROM people WHERE email = p_email));
END $$;
GRANT EXECUTE ON FUNCTION sign_up(text, text, text[], text, bytea, integer, text) TO okane_app;

-- A person with the first handle that is free, and their wallet. -> their id, null if the address belongs to somebody already
CREATE OR REPLACE FUNCTION make_person(p_email text, p_name text, p_handles text[], p_password_hash text, p_currency text)
RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    v_person uuid;
    v_handle text;
BEGIN
    PERFORM FROM sign_ups WHERE email = p_email ORDER BY id FOR UPDATE;  -- first, as in verify_email
    FOREACH v_handle IN ARRAY p_handles LOOP
        INSERT INTO people (email, name, handle, password_hash) VALUES (p_email, p_name, v_handle, p_password_hash)
        ON CONFLICT DO NOTHING RETURNING id INTO v_person;
        EXIT WHEN v_person IS NOT NULL OR EXISTS (SELECT FROM people WHERE email = p_email);
    END LOOP;
    -- Whoever signed up with this address and has not proved it has chosen a password that must not live on.
    DELETE FROM sign_ups WHERE email = p_email;
    IF v_person IS NOT NULL THEN
        INSERT INTO wallets (person_id, currency) VALUES (v_person, p_currency);
    END IF;
    RETURN v_person;
END $$;

-- Proves an e-mail by its code: the person, their wallet and their first session come into being.
-- A wrong guess costs the live attempts of that address, those made from the same network, one of their five tries.
-- -> {"outcome": "verified", "person_id"} | {"outcome": "code_invalid"} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION verify_email(p_email text, p_code_hash bytea, p_currency text, p_session uuid, p_device text,
    p_refresh_hash bytea, p_idle_seconds integer, p_absolute_seconds integer, p_source text DEFAULT '')
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    s sign_ups;
    attempt sign_ups;
    v_person uuid;
    v_wait integer := knock('verify', p_email, p_source);
BEGIN
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    -- Lock every attempt first, in the order in which sign_up takes them, so that parallel guesses are counted one after another.
    FOR attempt IN SELECT * FROM sign_ups WHERE email = p_email ORDER BY id FOR UPDATE LOOP
        IF attempt.tries < 5 AND attempt.expires_at > clock_timestamp() AND attempt.code_hash = p_code_hash THEN
            s := attempt;
        END IF;
    END LOOP;
    IF s.id IS NULL THEN
        UPDATE sign_ups SET tries = tries + 1 WHERE email = p_email AND source = p_source AND tries < 5;
        RETURN json_build_object('outcome', 'code_invalid');
    END IF;
    v_person := make_person(p_email, s.name, s.handles, s.password_hash, p_currency);
    IF v_person IS NULL THEN
        RETURN json_build_object('outcome', 'code_invalid');  -- the address belongs to somebody already
    END IF;
    PERFORM welcome('sign_up', p_email, s.source);
    PERFORM welcome('verify', p_email, p_source);
    PERFORM start_session(v_person, p_session, p_device, p_refresh_hash, p_idle_seconds, p_absolute_seconds, p_source);
    RETURN json_build_object('outcome', 'verified', 'person_id', v_person);
END $$;
GRANT EXECUTE ON FUNCTION verify_email(text, bytea, text, uuid, text, bytea, integer, integer, text) TO okane_app;

-- Changes what is not null. -> {"outcome": "found" | "session_ended" | "handle_taken", "version", "profile"}
CREATE OR REPLACE FUNCTION change_profile(p_person uuid, p_session uuid, p_name text, p_handle text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    p people;
    v_wait integer;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    -- Whether a handle is free tells whether somebody has it: as much as a look-up that misses.
    v_wait := CASE WHEN p_handle IS NULL THEN 0 ELSE spend_on_recipients(p_person, 10) END;
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    BEGIN  -- what was spent stays spent where this fails
        UPDATE people SET name = coalesce(p_name, name), handle = coalesce(p_handle, handle), version = version + 1
         WHERE id = p_person RETURNING * INTO p;
    EXCEPTION WHEN unique_violation THEN  -- people_handle_once: the only unique column that can change here
        RETURN json_build_object('outcome', 'handle_taken');
    END;
    RETURN json_build_object('outcome', 'found', 'version', p.version, 'profile', profile_view(p));
END $$;
GRANT EXECUTE ON FUNCTION change_profile(uuid, uuid, text, text) TO okane_app;

-- What asking for a handle that nobody has costs, here and in make_transfer: ten times a hit, so that handles cannot be
-- harvested. 300 points in five minutes are 300 recipients found, or 30 guesses that miss.
CREATE OR REPLACE FUNCTION spend_on_recipients(p_person uuid, p_points integer) RETURNS integer LANGUAGE sql AS $$
    SELECT spend('recipient:' || p_person, p_points, 300, 300)
$$;

-- -> {"outcome": "recipient_not_found"} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION recipient_missed(p_person uuid, p_misses integer) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_wait integer := spend_on_recipients(p_person, 10 * p_misses);
BEGIN
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    RETURN json_build_object('outcome', 'recipient_not_found');
END $$;

-- Who is behind a handle.
-- -> {"outcome": "found", "recipient": {"handle", "name"}} | {"outcome": "recipient_not_found" | "session_ended"}
--  | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION find_recipient(p_person uuid, p_session uuid, p_handle text, p_source text DEFAULT '')
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_name text;
    v_wait integer;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    SELECT name INTO v_name FROM people WHERE handle = p_handle;
    -- Ten people in one network may look, or one who has made ten accounts.
    v_wait := spend('recipient_from:' || p_source, CASE WHEN FOUND THEN 1 ELSE 10 END, 3000, 300);
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    ELSIF v_name IS NULL THEN
        RETURN recipient_missed(p_person, 1);
    END IF;
    v_wait := spend_on_recipients(p_person, 1);
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    RETURN json_build_object('outcome', 'found',
        'recipient', json_build_object('handle', p_handle, 'name', mask_name(v_name)));
END $$;
GRANT EXECUTE ON FUNCTION find_recipient(uuid, uuid, text, text) TO okane_app;
