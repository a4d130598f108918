-- Passwords: signing in with one, changing it, and setting a new one by mail.

-- What to check a password against: the person's, and the newest sign-up's that waits for its code. An address that somebody has
-- may have both, and must not be told from one that only has the second. Counted before the password is tried, so that guesses
-- side by side are bounded too.
-- -> {"outcome": "found", "person_id": uuid|null, "password_hash": str|null, "sign_up_hash": str|null}
--  | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION find_credentials(p_email text, p_source text DEFAULT '')
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    p people;
    v_wait integer := knock('log_in', p_email, p_source);
BEGIN
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    SELECT * INTO p FROM people WHERE email = p_email;
    RETURN json_build_object('outcome', 'found', 'person_id', p.id, 'password_hash', p.password_hash, 'sign_up_hash',
        (SELECT password_hash FROM sign_ups WHERE email = p_email ORDER BY id DESC LIMIT 1));
END $$;
GRANT EXECUTE ON FUNCTION find_credentials(text, text) TO okane_app;

-- Signs in a person whose password was right a moment ago; not if it has changed since.
-- -> {"outcome": "signed_in" | "credentials_invalid"}
CREATE OR REPLACE FUNCTION sign_in(p_person uuid, p_password_hash text, p_session uuid, p_device text,
    p_refresh_hash bytea, p_idle_seconds integer, p_absolute_seconds integer, p_source text DEFAULT '')
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_email text;
BEGIN
    SELECT email INTO v_email FROM people WHERE id = p_person AND password_hash = p_password_hash FOR UPDATE;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'credentials_invalid');
    END IF;
    PERFORM welcome('log_in', v_email, p_source);
    PERFORM start_session(p_person, p_session, p_device, p_refresh_hash, p_idle_seconds, p_absolute_seconds, p_source);
    RETURN json_build_object('outcome', 'signed_in');
END $$;
GRANT EXECUTE ON FUNCTION sign_in(uuid, text, uuid, text, bytea, integer, integer, text) TO okane_app;

-- The same for somebody who is signed in and wants another password: a stolen session must not be a place to guess at it.
-- -> {"outcome": "found", "email", "name", "password_hash": str|null} | {"outcome": "session_ended"}
--  | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION find_own_credentials(p_person uuid, p_session uuid, p_source text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    p people;
    v_wait integer;
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    SELECT * INTO p FROM people WHERE id = p_person;
    v_wait := knock('log_in', p.email, p_source);
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    RETURN json_build_object('outcome', 'found', 'email', p.email, 'name', p.name, 'password_hash', p.password_hash);
END $$;
GRANT EXECUTE ON FUNCTION find_own_credentials(uuid, uuid, text) TO okane_app;

-- Puts a new password in the place of the one that was right a moment ago; every other session ends, and no mailed code is
-- good any more.
-- -> {"outcome": "changed", "ended": [session id]} | {"outcome": "credentials_invalid" | "session_ended"}
CREATE OR REPLACE FUNCTION change_password(p_person uuid, p_session uuid, p_old_hash text, p_new_hash text, p_source text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_email text;
BEGIN
    -- The codes before the person, as in reset_password.
    PERFORM FROM password_resets WHERE email = (SELECT email FROM people WHERE id = p_person) ORDER BY id FOR UPDATE;
    SELECT email INTO v_email FROM people WHERE id = p_person AND password_hash = p_old_hash FOR UPDATE;
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    ELSIF v_email IS NULL THEN
        RETURN json_build_object('outcome', 'credentials_invalid');
    END IF;
    UPDATE people SET password_hash = p_new_hash WHERE id = p_person;
    DELETE FROM password_resets WHERE email = v_email;
    PERFORM welcome('log_in', v_email, p_source);
    RETURN json_build_object('outcome', 'changed', 'ended', end_other_sessions(p_person, p_session));
END $$;
GRANT EXECUTE ON FUNCTION change_password(uuid, uuid, text, text, text) TO okane_app;

-- Records that somebody wants a new password. Known and unknown addresses take the same steps; only the mail differs.
-- -> {"outcome": "recorded", "known": bool} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION ask_for_reset(p_email text, p_code_hash bytea, p_code_seconds integer, p_source text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_wait integer;
BEGIN
    -- The attempts before the budgets, as in sign_up.
    PERFORM FROM password_resets WHERE email = p_email ORDER BY id FOR UPDATE;
    v_wait := knock('forgot', p_email, p_source);
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    INSERT INTO password_resets (email, code_hash, source, expires_at)
    VALUES (p_email, p_code_hash, p_source, clock_timestamp() + make_interval(secs => p_code_seconds));
    DELETE FROM password_resets WHERE email = p_email AND source = p_source
       AND id NOT IN (SELECT id FROM password_resets WHERE email = p_email AND source = p_source ORDER BY id DESC LIMIT 3);
    RETURN json_build_object('outcome', 'recorded', 'known', EXISTS (SELECT FROM people WHERE email = p_email));
END $$;
GRANT EXECUTE ON FUNCTION ask_for_reset(text, bytea, integer, text) TO okane_app;

-- Sets a new password by a mailed code; every session ends. A wrong guess costs as in verify_email.
-- -> {"outcome": "reset", "person_id", "ended": [session id]} | {"outcome": "code_invalid"}
--  | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION reset_password(p_email text, p_code_hash bytea, p_password_hash text, p_source text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    attempt password_resets;
    v_asked_from text;  -- not null: the code is right
    v_person uuid;
    v_wait integer := knock('reset', p_email, p_source);
BEGIN
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
    END IF;
    -- All of them, in the order in which ask_for_reset takes them.
    FOR attempt IN SELECT * FROM password_resets WHERE email = p_email ORDER BY id FOR UPDATE LOOP
        IF attempt.tries < 5 AND attempt.expires_at > clock_timestamp() AND attempt.code_hash = p_code_hash THEN
            v_asked_from := attempt.source;
        END IF;
    END LOOP;
    IF v_asked_from IS NULL THEN
        UPDATE password_resets SET tries = tries + 1 WHERE email = p_email AND source = p_source AND tries < 5;
        RETURN json_build_object('outcome', 'code_invalid');
    END IF;
    DELETE FROM password_resets WHERE email = p_email;
    UPDATE people SET password_hash = p_password_hash WHERE email = p_email RETURNING id INTO v_person;
    IF NOT FOUND THEN
        RETURN json_build_object('outcome', 'code_invalid');
    END IF;
    PERFORM welcome('forgot', p_email, v_asked_from), welcome('reset', p_email, p_source);
    -- The new password may be tried at once. The network gets nothing back for it: it has paid nothing.
    PERFORM forget_tries('log_in', p_email, p_source);
    RETURN json_build_object('outcome', 'reset', 'person_id', v_person, 'ended', end_other_sessions(v_person, NULL));
END $$;
GRANT EXECUTE ON FUNCTION reset_password(text, bytea, text, text) TO okane_app;
