-- The audit re-adds the books. It reads and never repairs: what it finds is for a person.
--
-- Every audit_... function looks at one slice, so that no call is long, and is STABLE: all of its statements see one moment, so
-- that it is right while money moves. Inside a slice nothing is compared with what another slice has seen.
--
-- They all return {"checked": {what: how many}, "count": differences, "differences": [the first hundred], "next": where the
-- next slice begins | null}. A difference is {"check", "wallet", "owner", "transfer", "said", "found"}: what a row says of itself,
-- and what the others come to; amounts in minor units; wallet with its owner, and transfer, where there is one.

-- The line that a transfer must have on one of its wallets: {available, locked} as deltas, null where it has none. p_paying: on the
-- payer's; p_closing: the line of its end, not of its beginning.
CREATE OR REPLACE FUNCTION line_of(t transfers, p_paying boolean, p_closing boolean) RETURNS bigint[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN refused(t) THEN CASE WHEN p_paying AND NOT p_closing THEN ARRAY[0, 0] END
        WHEN t.kind = 'deposit' THEN
            CASE WHEN NOT p_closing THEN CASE WHEN NOT p_paying THEN ARRAY[0, 0] END
                 WHEN t.status = 'Success' THEN ARRAY[CASE WHEN p_paying THEN -t.amount ELSE t.amount END, 0]
                 WHEN t.status = 'Failure' AND NOT p_paying THEN ARRAY[0, 0] END
        WHEN t.kind = 'withdrawal' OR t.expires_at IS NOT NULL THEN  -- its amount is locked until it ends
            CASE WHEN NOT p_paying AND t.kind = 'withdrawal' THEN CASE WHEN p_closing AND t.status = 'Success' THEN ARRAY[t.amount, 0] END
                 WHEN NOT p_closing THEN CASE WHEN p_paying THEN ARRAY[-t.amount, t.amount] ELSE ARRAY[0, 0] END
                 WHEN t.status = 'Success' AND p_paying THEN ARRAY[t.amount - coalesce(t.captured_amount, t.amount), -t.amount]
                 WHEN t.status = 'Success' THEN ARRAY[coalesce(t.captured_amount, t.amount), 0]
                 WHEN t.status = 'Failure' THEN CASE WHEN p_paying THEN ARRAY[t.amount, -t.amount] ELSE ARRAY[0, 0] END END
        WHEN t.status = 'Success' AND NOT p_closing THEN ARRAY[CASE WHEN p_paying THEN -t.amount ELSE t.amount END, 0] END
$$;

-- When a line was written, as far as the books say: of a folded one, when it arrived.
CREATE OR REPLACE FUNCTION written_at(p_tag entry_tag, t transfers) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN p_tag = 'closing' THEN t.completed_at ELSE t.created_at END
$$;

-- Each currency adds up to nothing, and what is locked is what open holds and withdrawals have locked. Over all wallets at once.
CREATE OR REPLACE FUNCTION faults_of_totals()
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT 'a currency does not add up to nothing', NULL::bigint, NULL::uuid, '0 ' || sums.currency, sum(sums.amount)::text
      FROM (SELECT w.currency, sum(w.available + w.locked) AS amount FROM wallets w GROUP BY 1
            UNION ALL
            SELECT w.currency, sum(a.amount) FROM arrivals a JOIN wallets w ON w.id = a.wallet_id GROUP BY 1) sums
     GROUP BY sums.currency HAVING sum(sums.amount) <> 0;
    RETURN QUERY
    SELECT 'locked is not the sum of the open holds', coalesce(w.id, o.wallet_id), NULL::uuid, coalesce(w.locked, 0)::text,
           coalesce(o.amount, 0)::text
      FROM (SELECT id, locked FROM wallets WHERE locked <> 0) w
      FULL JOIN (SELECT t.from_wallet AS wallet_id, sum(t.amount) AS amount FROM transfers t
                  WHERE t.status = 'Processing' AND t.kind IN ('transfer', 'withdrawal') GROUP BY 1) o ON o.wallet_id = w.id
     WHERE w.locked IS DISTINCT FROM o.amount;
END $$;

-- A wallet is what its last line says; a person's is never negative; its days before today add up.
CREATE OR REPLACE FUNCTION faults_of_wallets(p_wallets bigint[])
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT f.fault, w.id, NULL::uuid, f.said::text, f.actual::text
      FROM unnest(p_wallets) AS asked (id)
      JOIN wallets w ON w.id = asked.id
      LEFT JOIN LATERAL (SELECT e.* FROM entry_rows e WHERE e.wallet_id = w.id ORDER BY e.seq DESC LIMIT 1) e ON true
     CROSS JOIN LATERAL (SELECT coalesce(sum(d.amount), 0) AS amount, coalesce(sum(d.count), 0) AS count FROM wallet_days d
                          WHERE d.wallet_id = w.id AND d.day BETWEEN w.day - 29 AND w.day - 1) d
     CROSS JOIN LATERAL (VALUES
        ('a wallet is not what its entries come to', (w.available, w.locked, w.version),
            (coalesce(e.available_after, 0), coalesce(e.locked_after, 0), coalesce(e.seq, 0)),
            (w.available, w.locked, w.version) IS DISTINCT FROM
            (coalesce(e.available_after, 0), coalesce(e.locked_after, 0), coalesce(e.seq, 0))),
        ('a person''s wallet is negative', (w.available, w.locked, w.version), NULL,
            w.person_id IS NOT NULL AND least(w.available, w.locked) < 0),
        ('the days before do not add up', (w.earlier_amount, w.earlier_count, 0), (d.amount, d.count, 0),
            (w.earlier_amount, w.earlier_count) IS DISTINCT FROM (d.amount, d.count)),
        ('what counts for the limits is not what was paid', (w.day_amount, w.day_count, 0), (0, 0, 0),
            e.seq IS NULL AND ((w.day_amount, w.day_count) <> (0, 0)
                               OR EXISTS (SELECT FROM wallet_days o WHERE o.wallet_id = w.id AND (o.amount, o.count) <> (0, 0))))
     ) AS f (fault, said, actual, is_one) WHERE f.is_one;
END $$;

-- Lines of wallets, of each those after p_low up to p_high: each follows from the one before, and says what its transfer says. p_back:
-- look for the beginning of what ends in them also before p_low.
CREATE OR REPLACE FUNCTION faults_of_entries(p_wallets bigint[], p_low bigint[], p_high bigint[], p_back boolean)
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    WITH lines AS MATERIALIZED (
        SELECT e.wallet_id, e.seq, e.transfer_id, e.tag, r.low, e.available_after, coalesce(e.locked_after, 0) AS locked_after,
               ARRAY[e.available_delta, coalesce(e.locked_delta, 0)] AS deltas, lag(e.seq, 1, 0::bigint) OVER by_seq AS before,
               lag(e.available_after, 1, 0::bigint) OVER by_seq + e.available_delta AS available,
               coalesce(lag(e.locked_after) OVER by_seq, 0) + coalesce(e.locked_delta, 0) AS locked,
               count(*) FILTER (WHERE e.tag IS DISTINCT FROM 'closing') OVER (PARTITION BY e.wallet_id, e.transfer_id) AS openings
          FROM unnest(p_wallets, p_low, p_high) AS r (wallet_id, low, high)
          JOIN entry_rows e ON e.wallet_id = r.wallet_id AND e.seq BETWEEN r.low AND r.high
        WINDOW by_seq AS (PARTITION BY e.wallet_id ORDER BY e.seq)
    ), read AS MATERIALIZED (
        SELECT l.*, x.has_wallet, x.has_transfer, x.pointer, x.line, x.opening, x.closing
          FROM lines l
          LEFT JOIN transfers t ON t.id = l.transfer_id
          LEFT JOIN wallets w ON w.id = l.wallet_id
         CROSS JOIN LATERAL (SELECT
            w.id IS NOT NULL AS has_wallet,
            coalesce(l.wallet_id IN (t.from_wallet, t.to_wallet), false) AS has_transfer,
            CASE l.wallet_id WHEN t.from_wallet THEN t.from_seq ELSE t.to_seq END AS pointer,
            line_of(t, l.wallet_id = t.from_wallet, l.tag IS NOT DISTINCT FROM 'closing') AS line,
            line_of(t, l.wallet_id = t.from_wallet, false) AS opening,
            line_of(t, l.wallet_id = t.from_wallet, true) AS closing) x
         WHERE l.seq > l.low
    ), earlier AS (  -- fenced, so that the lines before are read once and not once for each that asks
        SELECT e.wallet_id, e.transfer_id, count(*) AS openings
          FROM (SELECT e.wallet_id, e.transfer_id
                  FROM (SELECT DISTINCT r.wallet_id, r.low FROM read r
                         WHERE p_back AND r.low > 0 AND r.tag = 'closing' AND r.opening IS NOT NULL) r
                  JOIN entry_rows e ON e.wallet_id = r.wallet_id AND e.seq < r.low AND e.tag IS DISTINCT FROM 'closing'
                OFFSET 0) e
          JOIN (SELECT DISTINCT r.wallet_id, r.transfer_id FROM read r WHERE r.tag = 'closing') r USING (wallet_id, transfer_id)
         GROUP BY 1, 2
    )
    SELECT 'an entry does not follow from the one before', r.wallet_id, r.transfer_id,
           format('%s: %s, %s', r.seq, r.available_after, r.locked_after), format('%s: %s, %s', r.before + 1, r.available, r.locked)
      FROM read r WHERE (r.seq, r.available_after, r.locked_after) IS DISTINCT FROM (r.before + 1, r.available, r.locked)
    UNION ALL
    SELECT f.fault, r.wallet_id, r.transfer_id, format('%s: %s', r.seq, r.deltas), coalesce(r.line::text, r.pointer::text)
      FROM read r
      LEFT JOIN earlier o ON o.wallet_id = r.wallet_id AND o.transfer_id = r.transfer_id
     CROSS JOIN LATERAL (SELECT CASE
            WHEN NOT r.has_wallet OR NOT r.has_transfer THEN 'an entry belongs to no transfer of its wallet'
            WHEN r.deltas IS DISTINCT FROM r.line THEN 'an entry does not say what its transfer says'
            WHEN r.tag = 'closing' AND r.pointer IS DISTINCT FROM r.seq
              OR r.tag IS NULL AND r.closing IS NULL AND r.pointer IS DISTINCT FROM r.seq
              OR r.tag = 'folded' AND r.closing IS NULL AND r.pointer IS NOT NULL
              OR r.tag IS DISTINCT FROM 'closing' AND r.closing IS NOT NULL AND r.pointer <= r.seq
                THEN 'a transfer and its entries disagree about each other'
            WHEN r.tag = 'closing' AND (p_back OR r.low = 0 OR r.openings > 0)
             AND r.openings + coalesce(o.openings, 0) <> (r.opening IS NOT NULL)::integer
                THEN 'a transfer does not have the lines of its state' END AS fault) f
     WHERE f.fault IS NOT NULL;
END $$;

-- What counts for the limits is what was paid, day by day. Of each wallet the lines after p_low up to p_high hold all that was paid
-- on the days after p_from up to p_to.
CREATE OR REPLACE FUNCTION faults_of_days(p_wallets bigint[], p_low bigint[], p_high bigint[], p_from date[], p_to date[])
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest(p_wallets, p_low, p_high, p_from, p_to) AS r (wallet_id, low, high, after_day, last_day)
    ), paid AS (
        SELECT r.wallet_id, d.day, sum(coalesce(t.captured_amount, t.amount)) AS amount, count(*) AS count
          FROM asked r
          JOIN entry_rows e ON e.wallet_id = r.wallet_id AND e.seq > r.low AND e.seq <= r.high AND e.tag IS NULL
          JOIN transfers t ON t.id = e.transfer_id AND t.from_wallet = e.wallet_id
         CROSS JOIN LATERAL (SELECT (t.created_at AT TIME ZONE 'UTC')::date AS day) d
         WHERE t.kind IN ('transfer', 'withdrawal') AND t.status <> 'Failure' AND d.day > r.after_day AND d.day <= r.last_day
         GROUP BY 1, 2
    ), counted AS (
        SELECT c.wallet_id, c.day, sum(c.amount) AS amount, sum(c.count) AS count
          FROM asked r
         CROSS JOIN LATERAL (SELECT w.id AS wallet_id, w.day, w.day_amount AS amount, w.day_count AS count FROM wallets w
                              WHERE w.id = r.wallet_id
                             UNION ALL
                             SELECT d.wallet_id, d.day, d.amount, d.count FROM wallet_days d WHERE d.wallet_id = r.wallet_id) c
         WHERE c.day > r.after_day AND c.day <= r.last_day AND (c.amount, c.count) <> (0, 0) GROUP BY 1, 2
    )
    SELECT 'what counts for the limits is not what was paid', coalesce(p.wallet_id, c.wallet_id), NULL::uuid,
           format('%s: %s, %s', coalesce(p.day, c.day), coalesce(c.amount, 0), coalesce(c.count, 0)),
           format('%s, %s', coalesce(p.amount, 0), coalesce(p.count, 0))
      FROM paid p FULL JOIN counted c ON c.wallet_id = p.wallet_id AND c.day = p.day
     WHERE (p.amount, p.count) IS DISTINCT FROM (c.amount, c.count);
END $$;

-- Transfers: the right wallets, the lines of their state, nothing captured or refunded beyond what there was, one bank event.
CREATE OR REPLACE FUNCTION faults_of_transfers(p_transfers uuid[])
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT x.fault, x.wallet_id, t.id, x.said, x.actual
      FROM unnest(p_transfers) AS asked (id)
      JOIN transfers t ON t.id = asked.id
      LEFT JOIN wallets f ON f.id = t.from_wallet
      LEFT JOIN wallets o ON o.id = t.to_wallet
      LEFT JOIN entry_rows fe ON fe.wallet_id = t.from_wallet AND fe.seq = t.from_seq
      LEFT JOIN entry_rows oe ON oe.wallet_id = t.to_wallet AND oe.seq = t.to_seq
      LEFT JOIN transfers r ON r.id = t.refund_of
     CROSS JOIN LATERAL (SELECT coalesce(t.captured_amount, t.amount) AS moved,
            CASE WHEN line_of(t, true, true) IS NOT NULL THEN 'closing' WHEN line_of(t, true, false) IS NOT NULL THEN 'opening'
                 ELSE 'none' END AS paying,
            CASE WHEN line_of(t, false, true) IS NOT NULL THEN 'closing' WHEN line_of(t, false, false) IS NOT NULL THEN 'opening'
                 ELSE 'none' END AS paid,
            CASE WHEN t.from_seq IS NULL THEN 'none' WHEN fe.transfer_id = t.id THEN coalesce(fe.tag::text, 'opening') ELSE 'lost' END
                AS from_line,
            CASE WHEN t.to_seq IS NULL THEN 'none' WHEN oe.transfer_id = t.id THEN coalesce(oe.tag::text, 'opening') ELSE 'lost' END
                AS to_line,
            CASE WHEN t.to_seq IS NULL AND t.kind = 'transfer'
                 THEN (SELECT count(*) FROM entry_rows e WHERE e.transfer_id = t.id AND e.tag = 'folded')
                    + (t.id IN (SELECT a.transfer_id FROM arrivals a))::integer END AS came) s
      LEFT JOIN LATERAL (SELECT sum(b.amount) FILTER (WHERE b.status = 'Success') AS amount FROM transfers b WHERE b.refund_of = t.id
                        ) b ON t.kind = 'transfer'
      LEFT JOIN LATERAL (SELECT count(*) FILTER (WHERE e.type = t.kind || '.succeeded') AS succeeded,
                                count(*) FILTER (WHERE e.type = t.kind || '.failed') AS failed FROM bank_events e
                          WHERE e.reference = t.id::text AND e.status = 'processed' AND e.settled_at IS NOT NULL
                            AND (e.bank, e.amount, e.currency) = (t.asked, t.amount, t.currency)
                        ) e ON t.kind IN ('deposit', 'withdrawal')
     CROSS JOIN LATERAL (VALUES
        ('a transfer has the wrong wallets', t.from_wallet, concat_ws(' ', t.kind, t.currency, CASE WHEN t.kind IN ('deposit', 'withdrawal') THEN t.asked END),
            concat_ws(' ', f.party, f.currency, 'to', o.party, o.currency),
            (f.currency, o.currency) IS DISTINCT FROM (t.currency, t.currency)
            OR f.party IS DISTINCT FROM CASE t.kind WHEN 'deposit' THEN 'bank:' || t.asked END
            OR o.party IS DISTINCT FROM CASE t.kind WHEN 'withdrawal' THEN 'bank:' || t.asked END
            OR t.kind = 'refund' AND (r.kind, r.from_wallet, r.to_wallet) IS DISTINCT FROM
                                     ('transfer'::transfer_kind, t.to_wallet, t.from_wallet)),
        ('a transfer and its entries disagree about each other', t.from_wallet, format('%s: %s', t.from_seq, s.paying), s.from_line,
            s.paying <> s.from_line),
        ('a transfer and its entries disagree about each other', t.to_wallet, format('%s: %s', t.to_seq, s.paid), s.to_line,
            s.paid <> s.to_line AND (s.came IS DISTINCT FROM 1 OR s.paid <> 'opening')),
        ('more was captured than was held, or outside its time', t.from_wallet, t.captured_amount::text, t.amount::text,
            t.captured_amount > t.amount OR t.captured_amount IS NOT NULL AND t.completed_at >= t.expires_at),
        ('more was refunded than was captured', t.to_wallet, CASE t.status WHEN 'Success' THEN s.moved::text ELSE t.status::text END,
            b.amount::text, b.amount > CASE t.status WHEN 'Success' THEN s.moved ELSE 0 END),
        ('a transfer with a bank has not ended by exactly one event', CASE t.kind WHEN 'deposit' THEN t.to_wallet ELSE t.from_wallet END,
            format('%s %s', t.status, t.failure_code), format('%s succeeded, %s failed', e.succeeded, e.failed),
            (e.succeeded, e.failed) <>
            ((t.status = 'Success')::integer, (t.failure_code IS NOT DISTINCT FROM 'declined')::integer))
     ) AS x (fault, wallet_id, said, actual, is_one) WHERE x.is_one;
END $$;

-- What has arrived and is no entry yet is what its transfer brings there, that transfer has not ended, and the wallet knows of it.
CREATE OR REPLACE FUNCTION faults_of_arrivals(p_wallets bigint[], p_numbers bigint[])
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT 'an arrival is not what its transfer brings', a.wallet_id, a.transfer_id, a.amount::text, line_of(t, false, false)::text
      FROM unnest(p_wallets, p_numbers) AS asked (wallet_id, number)
      JOIN arrivals a ON a.wallet_id = asked.wallet_id AND a.number = asked.number
      LEFT JOIN transfers t ON t.id = a.transfer_id
      LEFT JOIN wallets w ON w.id = a.wallet_id
     WHERE w.has_received IS NOT TRUE OR t.kind IS DISTINCT FROM 'transfer' OR t.to_wallet <> a.wallet_id OR t.to_seq IS NOT NULL
        OR line_of(t, false, true) IS NOT NULL OR line_of(t, false, false) IS DISTINCT FROM ARRAY[a.amount, 0]
        OR EXISTS (SELECT FROM arrivals o WHERE o.wallet_id = a.wallet_id AND o.transfer_id = a.transfer_id AND o.number < a.number);
END $$;

-- Bank events: one credit and one payout per movement at the bank, and what has acted has ended the transfer that it names.
CREATE OR REPLACE FUNCTION faults_of_events(p_banks text[], p_webhooks text[])
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT f.fault, NULL::bigint, t.id, format('%s %s: %s %s', e.bank, e.webhook_id, e.type, e.status), coalesce(t.status::text, 'none')
      FROM unnest(p_banks, p_webhooks) AS asked (bank, webhook_id)
      JOIN bank_events e ON e.bank = asked.bank AND e.webhook_id = asked.webhook_id
      LEFT JOIN transfers t ON t.id = referenced(e.reference)
     CROSS JOIN LATERAL (VALUES
        ('an event waits, or has acted, for no reason',
            (e.status = 'processed') <> (e.settled_at IS NOT NULL) OR (e.status = 'parked' AND t.id IS NOT NULL)),
        ('an event has not ended the transfer that it names', e.status = 'processed' AND
            (t.kind || CASE t.status WHEN 'Success' THEN '.succeeded' WHEN 'Failure' THEN '.failed' END, t.asked, t.amount, t.currency)
            IS DISTINCT FROM (e.type, e.bank, e.amount, e.currency)),
        ('a movement at the bank was posted twice', e.status = 'processed' AND e.type LIKE '%.succeeded' AND
            (SELECT count(*) FROM bank_events o WHERE (o.bank, o.bank_reference) = (e.bank, e.bank_reference)
                                                  AND o.status = 'processed' AND o.type = e.type) > 1)
     ) AS f (fault, is_one) WHERE f.is_one;
END $$;

-- Every item of a batch that became a transfer is still the transfer that it became.
CREATE OR REPLACE FUNCTION faults_of_batches(p_batches uuid[])
RETURNS TABLE (fault text, wallet bigint, transfer uuid, said text, actual text) LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY
    SELECT 'a batch has lost an item', t.from_wallet, (i.item->>'id')::uuid, coalesce(i.item->>'code', 'paid'),
           CASE WHEN b.refused THEN 'refused' WHEN t.id IS NULL THEN 'none' ELSE coalesce(t.failure_code, 'paid') END
      FROM unnest(p_batches) AS asked (id)
      JOIN batches b ON b.id = asked.id
     CROSS JOIN LATERAL json_array_elements(b.outcomes) AS i (item)
      LEFT JOIN transfers t ON t.id = (i.item->>'id')::uuid
     WHERE i.item->>'id' IS NOT NULL
       AND (b.refused OR t.id IS NULL OR t.failure_code IS DISTINCT FROM i.item->>'code');
END $$;
