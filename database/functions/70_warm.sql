-- What the cache warmer reads and remembers.

-- Everything the cache holds of one person.
CREATE OR REPLACE FUNCTION warm_view(p people, p_page integer) RETURNS json LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (
        SELECT json_build_object('person_id', p.id, 'version', p.version, 'profile', profile_view(p),
            'wallets', (SELECT coalesce(json_agg(json_build_object('wallet', wallet_view(w),
                            'page', history_page(w.id, 9223372036854775807, p_page, NULL, NULL, NULL, NULL))), '[]')
                          FROM wallets w WHERE w.person_id = p.id AND NOT w.receiving))
    );
END $$;

-- -> {"people": [one at most]}
CREATE OR REPLACE FUNCTION read_person_to_warm(p_person uuid, p_page integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT json_build_object('people', coalesce(json_agg(warm_view(p, p_page)), '[]')) FROM people p WHERE p.id = p_person
    );
END $$;
GRANT EXECUTE ON FUNCTION read_person_to_warm(uuid, integer) TO okane_app;

-- The next p_limit people after (p_active_at, p_id), most recently active first, back to p_since.
-- -> {"people": [...], "next": {"active_at", "id"} | null when nobody is left}
CREATE OR REPLACE FUNCTION read_people_to_warm(p_active_at timestamptz, p_id uuid, p_since timestamptz, p_limit integer,
                                               p_page integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT json_build_object('people', coalesce(json_agg(warm_view(p, p_page) ORDER BY p.active_at DESC, p.id DESC), '[]'),
            'next', CASE WHEN count(*) = p_limit THEN (array_agg(json_build_object('active_at', p.active_at, 'id', p.id)
                                                                 ORDER BY p.active_at, p.id))[1] END)
          FROM (SELECT * FROM people
                 WHERE (active_at, id) < (p_active_at, p_id) AND active_at >= p_since
                 ORDER BY active_at DESC, id DESC LIMIT p_limit) p
    );
END $$;
GRANT EXECUTE ON FUNCTION read_people_to_warm(timestamptz, uuid, timestamptz, integer, integer) TO okane_app;

-- The sessions, [person_id, session_id], that ended within p_seconds. A cache that was out of reach when one ended learns of it here.
CREATE OR REPLACE FUNCTION read_ended_sessions(p_seconds integer)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT json_build_object('sessions', coalesce(json_agg(json_build_array(person_id, id)), '[]')) FROM sessions
         WHERE ended_at > clock_timestamp() - make_interval(secs => p_seconds)
    );
END $$;
GRANT EXECUTE ON FUNCTION read_ended_sessions(integer) TO okane_app;

CREATE OR REPLACE FUNCTION read_mark(p_name text)
RETURNS json LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN (
        SELECT json_build_object('value', (SELECT value FROM marks WHERE name = p_name))
    );
END $$;
GRANT EXECUTE ON FUNCTION read_mark(text) TO okane_app;

CREATE OR REPLACE FUNCTION save_mark(p_name text, p_value json)
RETURNS json LANGUAGE sql SECURITY DEFINER
SET search_path = okane, pg_temp SET plan_cache_mode = force_generic_plan AS $$
    INSERT INTO marks VALUES (p_name, p_value) ON CONFLICT (name) DO UPDATE SET value = excluded.value
    RETURNING json_build_object('value', value)
$$;
GRANT EXECUTE ON FUNCTION save_mark(text, json) TO okane_app;
