-- Signing in by an OpenID provider. The provider was asked before: nothing is called while a row is locked.

-- A round that ended without a person: its state is spent all the same. -> {"outcome": "spent" | "state_used"}
CREATE OR REPLACE FUNCTION spend_round(p_state_hash bytea)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    INSERT INTO provider_rounds (state_hash) VALUES (p_state_hash) ON CONFLICT DO NOTHING;
    RETURN json_build_object('outcome', CASE WHEN FOUND THEN 'spent' ELSE 'state_used' END);
END $$;
GRANT EXECUTE ON FUNCTION spend_round(bytea) TO okane_app;

-- Finds, links or makes the person whom the provider has vouched for, by the provider's name for them, and leaves a code for
-- their front end. The e-mail, verified by both, only links an account for the first time; if that account has another name
-- with the same provider already, the address has changed hands.
-- -> {"outcome": "known" | "linked" | "made", "person_id"} | {"outcome": "state_used" | "identity_conflict"}
CREATE OR REPLACE FUNCTION end_round(p_state_hash bytea, p_issuer text, p_subject text, p_email text, p_name text,
    p_handles text[], p_currency text, p_code_hash bytea, p_challenge text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    v_person uuid;
    v_outcome text := 'known';
BEGIN
    IF spend_round(p_state_hash)->>'outcome' = 'state_used' THEN
        RETURN json_build_object('outcome', 'state_used');
    END IF;
    -- Two rounds of one new person, side by side.
    PERFORM pg_advisory_xact_lock(hashtextextended('identity ' || p_issuer || ' ' || p_subject, 0));
    SELECT person_id INTO v_person FROM identities WHERE issuer = p_issuer AND subject = p_subject;
    IF NOT FOUND THEN
        v_person := make_person(p_email, p_name, p_handles, NULL, p_currency);
        v_outcome := CASE WHEN v_person IS NULL THEN 'linked' ELSE 'made' END;
        IF v_person IS NULL THEN
            SELECT id INTO v_person FROM people WHERE email = p_email;
        END IF;
        INSERT INTO identities (issuer, subject, person_id) VALUES (p_issuer, p_subject, v_person) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            RETURN json_build_object('outcome', 'identity_conflict');
        END IF;
    END IF;
    UPDATE provider_rounds SET code_hash = p_code_hash, challenge = p_challenge, person_id = v_person WHERE state_hash = p_state_hash;
    RETURN json_build_object('outcome', v_outcome, 'person_id', v_person);
END $$;
GRANT EXECUTE ON FUNCTION end_round(bytea, text, text, text, text, text[], text, bytea, text) TO okane_app;

-- Starts a session for the code of a round, once and within p_code_seconds. A code that comes with the wrong verifier is spent; one
-- that comes again as it was ends the session that it was exchanged for (RFC 6749, 4.1.2).
-- -> {"outcome": "signed_in", "person_id"} | {"outcome": "code_reused", "person_id", "session_id", "email"}
--  | {"outcome": "code_invalid"} | {"outcome": "rate_limited", "retry_after": seconds}
CREATE OR REPLACE FUNCTION redeem_round(p_code_hash bytea, p_code_seconds integer, p_challenge text, p_session uuid, p_device text,
    p_refresh_hash bytea, p_idle_seconds integer, p_absolute_seconds integer, p_source text)
RETURNS json LANGUAGE plpgsql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    r provider_rounds;
BEGIN
    SELECT * INTO r FROM provider_rounds WHERE code_hash = p_code_hash AND challenge = p_challenge FOR UPDATE;
    IF NOT FOUND THEN
        UPDATE provider_rounds SET used_at = coalesce(used_at, clock_timestamp()) WHERE code_hash = p_code_hash;
        RETURN missed('code_invalid', p_source);
    ELSIF r.session_id IS NOT NULL THEN
        UPDATE sessions SET ended_at = clock_timestamp() WHERE id = r.session_id AND ended_at IS NULL;
        IF FOUND THEN
            RETURN json_build_object('outcome', 'code_reused', 'person_id', r.person_id, 'session_id', r.session_id,
                                     'email', (SELECT email FROM people WHERE id = r.person_id));
        END IF;
        RETURN missed('code_invalid', p_source);
    ELSIF r.used_at IS NOT NULL OR r.ended_at <= clock_timestamp() - make_interval(secs => p_code_seconds) THEN
        RETURN missed('code_invalid', p_source);
    END IF;
    UPDATE provider_rounds SET used_at = clock_timestamp(), session_id = p_session WHERE state_hash = r.state_hash;
    PERFORM start_session(r.person_id, p_session, p_device, p_refresh_hash, p_idle_seconds, p_absolute_seconds, p_source);
    RETURN json_build_object('outcome', 'signed_in', 'person_id', r.person_id);
END $$;
GRANT EXECUTE ON FUNCTION redeem_round(bytea, integer, text, uuid, text, bytea, integer, integer, text) TO okane_app;
