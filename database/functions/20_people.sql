-- Signing up, in, on and out.

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

-- The budgets of an address, the same for known and unknown ones. They bound guessing and unasked mail, and are short, so
-- that nobody can keep the owner out for long.
--   sign_up: mails. verify: codes tried, across all sign-ups. log_in: passwords tried since the last right one.
CREATE OR REPLACE FUNCTION spend_on_address(p_what text, p_email text) RETURNS integer LANGUAGE sql AS $$
    SELECT spend(p_what || ':' || p_email, 1, CASE p_what WHEN 'sign_up' THEN 10 WHEN 'verify' THEN 30 ELSE 50 END,
                 CASE p_what WHEN 'sign_up' THEN 3600 ELSE 900 END)
$$;

-- Records an attempt to sign up. Known and unknown addresses take the same steps; only the mail differs.
-- -> {"outcome": "recorded", "known": bool} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION sign_up(p_email text, p_name text, p_handles text[], p_password_hash text,
                                   p_code_hash bytea, p_code_seconds integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_wait integer := spend_on_address('sign_up', p_email);
BEGIN
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    INSERT INTO sign_ups (email, name, handles, password_hash, code_hash, expires_at)
    VALUES (p_email, p_name, p_handles, p_password_hash, p_code_hash, clock_timestamp() + make_interval(secs => p_code_seconds));
    -- Three live attempts for one address are enough for any honest person, and keep a guess unlikely.
    DELETE FROM sign_ups WHERE email = p_email
       AND id NOT IN (SELECT id FROM sign_ups WHERE email = p_email ORDER BY id DESC LIMIT 3);
    RETURN json_build_object('outcome', 'recorded', 'known', EXISTS (SELECT FROM people WHERE email = p_email));
END $$;
GRANT EXECUTE ON FUNCTION sign_up(text, text, text[], text, bytea, integer) TO okane_app;

-- Starts a session with its first refresh token. The caller has proved who the person is.
CREATE OR REPLACE FUNCTION start_session(p_person uuid, p_session uuid, p_device text, p_refresh_hash bytea,
                                         p_idle_seconds integer, p_absolute_seconds integer)
RETURNS void LANGUAGE sql AS $$
    UPDATE people SET active_at = clock_timestamp() WHERE id = p_person;
    INSERT INTO sessions (id, person_id, device, expires_at)
    VALUES (p_session, p_person, p_device, clock_timestamp() + make_interval(secs => p_absolute_seconds));
    INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
    VALUES (p_refresh_hash, p_session, clock_timestamp() + make_interval(secs => p_idle_seconds));
$$;

-- Proves an e-mail by its code: the person, their wallet and their first session come into being.
-- Every wrong guess costs all live attempts of that address one of their five tries.
-- -> {"outcome": "verified", "person_id"} | {"outcome": "code_invalid"} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION verify_email(p_email text, p_code_hash bytea, p_currency text,
    p_session uuid, p_device text, p_refresh_hash bytea, p_idle_seconds integer, p_absolute_seconds integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    s sign_ups;
    attempt sign_ups;
    v_person uuid;
    v_handle text;
    v_wait integer := spend_on_address('verify', p_email);
BEGIN
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    -- Lock every live attempt first, so that parallel guesses are counted one after another.
    FOR attempt IN SELECT * FROM sign_ups
                    WHERE email = p_email AND expires_at > clock_timestamp() AND tries < 5 ORDER BY id FOR UPDATE LOOP
        IF attempt.tries < 5 AND attempt.code_hash = p_code_hash THEN
            s := attempt;
        END IF;
    END LOOP;
    IF s.id IS NULL THEN
        UPDATE sign_ups SET tries = tries + 1 WHERE email = p_email AND tries < 5;
        RETURN json_build_object('outcome', 'code_invalid');
    END IF;
    FOREACH v_handle IN ARRAY s.handles LOOP
        INSERT INTO people (email, name, handle, password_hash) VALUES (p_email, s.name, v_handle, s.password_hash)
        ON CONFLICT DO NOTHING RETURNING id INTO v_person;
        EXIT WHEN v_person IS NOT NULL OR EXISTS (SELECT FROM people WHERE email = p_email);
    END LOOP;
    DELETE FROM sign_ups WHERE email = p_email;
    IF v_person IS NULL THEN
        RETURN json_build_object('outcome', 'code_invalid');  -- the address belongs to somebody already
    END IF;
    INSERT INTO wallets (person_id, currency) VALUES (v_person, p_currency);
    PERFORM start_session(v_person, p_session, p_device, p_refresh_hash, p_idle_seconds, p_absolute_seconds);
    RETURN json_build_object('outcome', 'verified', 'person_id', v_person);
END $$;
GRANT EXECUTE ON FUNCTION verify_email(text, bytea, text, uuid, text, bytea, integer, integer) TO okane_app;

-- What to check a password against: the person's, else the newest sign-up's that waits for its code. Counted before the
-- password is tried, so that guesses side by side are bounded too.
-- -> {"outcome": "found", "person_id": uuid|null, "password_hash": str|null} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION find_credentials(p_email text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    p people;
    v_wait integer := spend_on_address('log_in', p_email);
BEGIN
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    SELECT * INTO p FROM people WHERE email = p_email;
    IF NOT FOUND THEN
        SELECT password_hash INTO p.password_hash FROM sign_ups WHERE email = p_email ORDER BY id DESC LIMIT 1;
    END IF;
    RETURN json_build_object('outcome', 'found', 'person_id', p.id, 'password_hash', p.password_hash);
END $$;
GRANT EXECUTE ON FUNCTION find_credentials(text) TO okane_app;

-- Signs in a person whose password was right a moment ago; not if it has changed since.
-- -> {"outcome": "signed_in" | "credentials_invalid"}
CREATE OR REPLACE FUNCTION sign_in(p_person uuid, p_password_hash text, p_session uuid, p_device text,
    p_refresh_hash bytea, p_idle_seconds integer, p_absolute_seconds integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    PERFORM FROM people WHERE id = p_person AND password_hash = p_password_hash FOR UPDATE;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'credentials_invalid');
    END IF;
    DELETE FROM budgets WHERE key = (SELECT 'log_in:' || email FROM people WHERE id = p_person);
    PERFORM start_session(p_person, p_session, p_device, p_refresh_hash, p_idle_seconds, p_absolute_seconds);
    RETURN json_build_object('outcome', 'signed_in');
END $$;
GRANT EXECUTE ON FUNCTION sign_in(uuid, text, uuid, text, bytea, integer, integer) TO okane_app;

-- Exchanges a refresh token for its successor. The immediate predecessor may be shown again for p_grace_seconds
-- and gets the same successor (as it was sealed then); any other use of a spent token ends the session.
-- -> {"outcome": "rotated" | "repeated", "person_id", "session_id", "sealed": hex, "expires_in": seconds}
--  | {"outcome": "session_reused", "person_id", "session_id"}: a spent token came again, and this call has ended the session
--  | {"outcome": "token_invalid" | "session_ended"}
CREATE OR REPLACE FUNCTION rotate_refresh(p_hash bytea, p_new_hash bytea, p_sealed bytea,
                                          p_idle_seconds integer, p_grace_seconds integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r refresh_tokens;
    s sessions;
    v_expires timestamptz;
    v_outcome text := 'rotated';
BEGIN
    SELECT session_id INTO r.session_id FROM refresh_tokens WHERE token_hash = p_hash;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'token_invalid');
    END IF;
    -- The session is the family: whoever holds its lock decides alone.
    SELECT * INTO s FROM sessions WHERE id = r.session_id FOR UPDATE;
    SELECT * INTO r FROM refresh_tokens WHERE token_hash = p_hash;
    IF s.ended_at IS NOT NULL OR s.expires_at <= clock_timestamp() THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF r.used_at IS NULL AND r.expires_at <= clock_timestamp() THEN
        RETURN json_build_object('outcome', 'token_invalid');
    ELSIF r.used_at IS NULL THEN
        v_expires := least(clock_timestamp() + make_interval(secs => p_idle_seconds), s.expires_at);
        UPDATE refresh_tokens SET used_at = clock_timestamp(), successor_hash = p_new_hash, successor_sealed = p_sealed
         WHERE token_hash = p_hash;
        INSERT INTO refresh_tokens (token_hash, session_id, expires_at) VALUES (p_new_hash, s.id, v_expires);
        UPDATE sessions SET last_used_at = clock_timestamp() WHERE id = s.id;
        UPDATE people SET active_at = clock_timestamp() WHERE id = s.person_id;
    ELSIF r.used_at > clock_timestamp() - make_interval(secs => p_grace_seconds)
      AND EXISTS (SELECT FROM refresh_tokens WHERE token_hash = r.successor_hash AND used_at IS NULL) THEN
        v_outcome := 'repeated';
        p_sealed := r.successor_sealed;
        SELECT expires_at INTO v_expires FROM refresh_tokens WHERE token_hash = r.successor_hash;
    ELSE
        UPDATE sessions SET ended_at = clock_timestamp() WHERE id = s.id;
        RETURN json_build_object('outcome', 'session_reused', 'person_id', s.person_id, 'session_id', s.id);
    END IF;
    RETURN json_build_object('outcome', v_outcome, 'person_id', s.person_id, 'session_id', s.id,
        'sealed', encode(p_sealed, 'hex'),
        'expires_in', floor(extract(epoch FROM v_expires - clock_timestamp()))::integer);
END $$;
GRANT EXECUTE ON FUNCTION rotate_refresh(bytea, bytea, bytea, integer, integer) TO okane_app;

-- -> {"outcome": "ended" | "session_ended"}
CREATE OR REPLACE FUNCTION end_session(p_person uuid, p_session uuid)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    UPDATE sessions SET ended_at = clock_timestamp()
     WHERE id = p_session AND person_id = p_person AND ended_at IS NULL AND expires_at > clock_timestamp();
    RETURN json_build_object('outcome', CASE WHEN FOUND THEN 'ended' ELSE 'session_ended' END);
END $$;
GRANT EXECUTE ON FUNCTION end_session(uuid, uuid) TO okane_app;

-- Changes what is not null. -> {"outcome": "found" | "session_ended" | "handle_taken", "version", "profile"}
CREATE OR REPLACE FUNCTION change_profile(p_person uuid, p_session uuid, p_name text, p_handle text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    p people;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    UPDATE people SET name = coalesce(p_name, name), handle = coalesce(p_handle, handle), version = version + 1
     WHERE id = p_person RETURNING * INTO p;
    RETURN json_build_object('outcome', 'found', 'version', p.version, 'profile', profile_view(p));
EXCEPTION WHEN unique_violation THEN  -- people_handle_once: the only unique column that can change here
    RETURN json_build_object('outcome', 'handle_taken');
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
CREATE OR REPLACE FUNCTION find_recipient(p_person uuid, p_session uuid, p_handle text)
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
    IF NOT FOUND THEN
        RETURN recipient_missed(p_person, 1);
    END IF;
    v_wait := spend_on_recipients(p_person, 1);
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    RETURN json_build_object('outcome', 'found',
        'recipient', json_build_object('handle', p_handle, 'name', mask_name(v_name)));
END $$;
GRANT EXECUTE ON FUNCTION find_recipient(uuid, uuid, text) TO okane_app;
