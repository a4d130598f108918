-- Sessions: starting them, carrying them on, listing and ending them.

-- Starts a session with its first refresh token. The caller has proved who the person is.
CREATE OR REPLACE FUNCTION start_session(p_person uuid, p_session uuid, p_device text, p_refresh_hash bytea,
                                         p_idle_seconds integer, p_absolute_seconds integer, p_source text)
RETURNS void LANGUAGE sql AS $$
    UPDATE people SET active_at = clock_timestamp() WHERE id = p_person;
    INSERT INTO sessions (id, person_id, device, expires_at, source)
    VALUES (p_session, p_person, p_device, clock_timestamp() + make_interval(secs => p_absolute_seconds), p_source);
    INSERT INTO refresh_tokens (token_hash, session_id, expires_at)
    VALUES (p_refresh_hash, p_session, clock_timestamp() + make_interval(secs => p_idle_seconds));
$$;

-- Ends the person's live sessions, but for p_but (null: all of them). -> the ids, as JSON
CREATE OR REPLACE FUNCTION end_other_sessions(p_person uuid, p_but uuid) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    v_ended json;
BEGIN
    WITH ended AS (
        UPDATE sessions SET ended_at = clock_timestamp()
         WHERE person_id = p_person AND id IS DISTINCT FROM p_but AND ended_at IS NULL AND expires_at > clock_timestamp()
        RETURNING id)
    SELECT coalesce(json_agg(id), '[]') INTO v_ended FROM ended;
    RETURN v_ended;
END $$;

-- Exchanges a refresh token for its successor. The immediate predecessor may be shown again for p_grace_seconds
-- and gets the same successor (as it was sealed then); any other use of a spent token ends the session.
-- -> {"outcome": "rotated" | "repeated", "person_id", "session_id", "sealed": hex, "expires_in": seconds}
--  | {"outcome": "session_reused", "person_id", "session_id", "email"}: a spent token came again, and this call has ended the session
--  | {"outcome": "token_invalid" | "session_ended"} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION rotate_refresh(p_hash bytea, p_new_hash bytea, p_sealed bytea,
                                          p_idle_seconds integer, p_grace_seconds integer, p_source text DEFAULT '')
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r refresh_tokens;
    s sessions;
    v_expires timestamptz;
    v_outcome text := 'rotated';
    v_wait integer;
BEGIN
    SELECT session_id INTO r.session_id FROM refresh_tokens WHERE token_hash = p_hash;
    IF NOT FOUND THEN
        RETURN missed('token_invalid', p_source);
    END IF;
    -- Each rotation leaves a row behind.
    v_wait := spend('refresh:' || r.session_id, 1, 100, 900);
    IF v_wait > 0 THEN
        RETURN json_build_object('outcome', 'rate_limited', 'retry_after', v_wait);
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
        -- Not waited for: who changes a password has the person's row and wants this session's.
        UPDATE people SET active_at = clock_timestamp()
         WHERE id = (SELECT id FROM people WHERE id = s.person_id FOR NO KEY UPDATE SKIP LOCKED);
    ELSIF r.used_at > clock_timestamp() - make_interval(secs => p_grace_seconds)
      AND EXISTS (SELECT FROM refresh_tokens WHERE token_hash = r.successor_hash AND used_at IS NULL) THEN
        v_outcome := 'repeated';
        p_sealed := r.successor_sealed;
        SELECT expires_at INTO v_expires FROM refresh_tokens WHERE token_hash = r.successor_hash;
    ELSE
        UPDATE sessions SET ended_at = clock_timestamp() WHERE id = s.id;
        RETURN json_build_object('outcome', 'session_reused', 'person_id', s.person_id, 'session_id', s.id,
                                 'email', (SELECT email FROM people WHERE id = s.person_id));
    END IF;
    RETURN json_build_object('outcome', v_outcome, 'person_id', s.person_id, 'session_id', s.id,
        'sealed', encode(p_sealed, 'hex'),
        'expires_in', floor(extract(epoch FROM v_expires - clock_timestamp()))::integer);
END $$;
GRANT EXECUTE ON FUNCTION rotate_refresh(bytea, bytea, bytea, integer, integer, text) TO okane_app;

-- The person's live sessions, the latest used first, p_limit at most; p_session is the one that asks.
-- -> {"outcome": "found", "sessions": [{"id", "device", "created_at", "last_used_at", "expires_at", "current"}]}
--  | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION list_sessions(p_person uuid, p_session uuid, p_limit integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    RETURN json_build_object('outcome', 'found', 'sessions', (
        SELECT coalesce(json_agg(json_build_object('id', s.id, 'device', s.device, 'created_at', moment(s.created_at),
                                                   'last_used_at', moment(s.last_used_at), 'expires_at', moment(s.expires_at),
                                                   'current', s.id = p_session)), '[]')
          FROM (SELECT * FROM sessions
                 WHERE person_id = p_person AND ended_at IS NULL AND expires_at > clock_timestamp()
                 ORDER BY id = p_session DESC, last_used_at DESC, id LIMIT p_limit) s));
END $$;
GRANT EXECUTE ON FUNCTION list_sessions(uuid, uuid, integer) TO okane_app;

-- Ends one of the person's sessions, the one that asks unless another is named. -> {"outcome": "ended" | "not_found" | "session_ended"}
CREATE OR REPLACE FUNCTION end_session(p_person uuid, p_session uuid, p_id uuid DEFAULT NULL)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    UPDATE sessions SET ended_at = clock_timestamp()
     WHERE id = coalesce(p_id, p_session) AND person_id = p_person AND ended_at IS NULL AND expires_at > clock_timestamp();
    -- Another request may have ended it between the look and now.
    RETURN json_build_object('outcome', CASE WHEN FOUND THEN 'ended' WHEN coalesce(p_id, p_session) = p_session THEN 'session_ended'
                                             ELSE 'not_found' END);
END $$;
GRANT EXECUTE ON FUNCTION end_session(uuid, uuid, uuid) TO okane_app;

-- Ends all of them, the one that asks too. -> {"outcome": "ended", "sessions": [id]} | {"outcome": "session_ended"}
CREATE OR REPLACE FUNCTION end_sessions(p_person uuid, p_session uuid)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    IF NOT session_live(p_person, p_session) THEN
        RETURN json_build_object('outcome', 'session_ended');
    END IF;
    RETURN json_build_object('outcome', 'ended', 'sessions', end_other_sessions(p_person, NULL));
END $$;
GRANT EXECUTE ON FUNCTION end_sessions(uuid, uuid) TO okane_app;

-- Forgets what has been over for long enough: tries, codes, rounds through a provider, sessions with their tokens. p_most of each.
-- -> {"forgotten": count}
CREATE OR REPLACE FUNCTION forget_what_is_over(p_most integer)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_forgotten integer := 0;
    v_some integer;
    v_sessions uuid[];
BEGIN
    DELETE FROM budgets WHERE key IN (
        SELECT key FROM budgets WHERE started_at < clock_timestamp() - interval '1 day' LIMIT p_most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS v_some = ROW_COUNT;
    v_forgotten := v_forgotten + v_some;
    -- A week: until then its password still gets the answer that the address is not verified.
    DELETE FROM sign_ups WHERE id IN (
        SELECT id FROM sign_ups WHERE expires_at < clock_timestamp() - interval '7 days' LIMIT p_most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS v_some = ROW_COUNT;
    v_forgotten := v_forgotten + v_some;
    DELETE FROM password_resets WHERE id IN (
        SELECT id FROM password_resets WHERE expires_at < clock_timestamp() - interval '1 day' LIMIT p_most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS v_some = ROW_COUNT;
    v_forgotten := v_forgotten + v_some;
    -- A day: the cookie that a state belongs to lives for minutes.
    DELETE FROM provider_rounds WHERE state_hash IN (
        SELECT state_hash FROM provider_rounds WHERE ended_at < clock_timestamp() - interval '1 day'
         LIMIT p_most FOR UPDATE SKIP LOCKED);
    GET DIAGNOSTICS v_some = ROW_COUNT;
    v_forgotten := v_forgotten + v_some;
    -- Three months: until then a network is one that the person is known to come from.
    SELECT array_agg(id) INTO v_sessions FROM (
        SELECT id FROM sessions WHERE expires_at < clock_timestamp() - interval '90 days' LIMIT p_most FOR UPDATE SKIP LOCKED) s;
    DELETE FROM refresh_tokens WHERE session_id = ANY (v_sessions);
    DELETE FROM sessions WHERE id = ANY (v_sessions);
    GET DIAGNOSTICS v_some = ROW_COUNT;
    RETURN json_build_object('forgotten', v_forgotten + v_some);
END $$;
GRANT EXECUTE ON FUNCTION forget_what_is_over(integer) TO okane_app;
