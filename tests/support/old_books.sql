-- Books as they were before migration 0004: a deposit, a payment on each of two days, a refusal, a deposit under way.
SET search_path = okane;
INSERT INTO people (id, email, name, handle) VALUES
    ('00000000-0000-4000-8000-00000000000a', 'a@example.com', 'Asha', 'asha'),
    ('00000000-0000-4000-8000-00000000000b', 'b@example.com', 'Ravi', 'ravi');
INSERT INTO wallets (id, person_id, party, stripe, currency, available, version, updated_at) VALUES
    ('00000000-0000-4000-8000-0000000000a1', '00000000-0000-4000-8000-00000000000a', NULL, NULL, 'INR', 650, 6, '2026-11-21 10:03Z'),
    ('00000000-0000-4000-8000-0000000000b1', '00000000-0000-4000-8000-00000000000b', NULL, NULL, 'INR', 350, 2, '2026-11-21 10:01Z'),
    ('00000000-0000-4000-8000-0000000000c1', NULL, 'bank:hdfc', 3, 'INR', -1000, 1, '2026-11-20 10:01Z');
INSERT INTO transfers (id, from_wallet, to_wallet, amount, created_at, completed_at, from_seq, to_seq, kind, status, currency,
                       asked, failure_code, payment_url, expires_at)
SELECT t.id::uuid, ('00000000-0000-4000-8000-0000000000' || f)::uuid, ('00000000-0000-4000-8000-0000000000' || o)::uuid, amount,
       made::timestamptz, ended::timestamptz, from_seq, to_seq, kind::transfer_kind, status::transfer_status, 'INR', asked, code,
       page, (CASE WHEN kind = 'deposit' THEN '2026-11-20 10:30Z' END)::timestamptz
  FROM (VALUES
    ('00000000-0000-8000-8000-000000000001', 'c1', 'a1', 1000, '2026-11-20 10:00Z', '2026-11-20 10:01Z', 1, 2, 'deposit', 'Success', 'hdfc', NULL, 'http://x'),
    ('00000000-0000-8000-8000-000000000002', 'a1', 'b1', 300, '2026-11-20 10:02Z', '2026-11-20 10:02Z', 3, 1, 'transfer', 'Success', 'ravi', NULL, NULL),
    ('00000000-0000-8000-8000-000000000003', 'a1', 'b1', 50, '2026-11-21 10:01Z', '2026-11-21 10:01Z', 4, 2, 'transfer', 'Success', 'ravi', NULL, NULL),
    ('00000000-0000-8000-8000-000000000004', 'a1', 'b1', 9000, '2026-11-21 10:02Z', '2026-11-21 10:02Z', 5, NULL, 'transfer', 'Failure', 'ravi', 'insufficient_funds', NULL),
    ('00000000-0000-8000-8000-000000000005', 'c1', 'a1', 70, '2026-11-21 10:03Z', NULL, NULL, 6, 'deposit', 'Processing', 'hdfc', NULL, 'http://x')
  ) t (id, f, o, amount, made, ended, from_seq, to_seq, kind, status, asked, code, page);
INSERT INTO entries (wallet_id, transfer_id, seq, available_delta, locked_delta, available_after, locked_after, created_at, opening)
SELECT ('00000000-0000-4000-8000-0000000000' || w)::uuid, ('00000000-0000-8000-8000-00000000000' || t)::uuid, seq, delta, 0, after, 0,
       at::timestamptz, opening
  FROM (VALUES ('a1', 1, 1, 0, 0, '2026-11-20 10:00Z', true), ('c1', 1, 1, -1000, -1000, '2026-11-20 10:01Z', true),
               ('a1', 1, 2, 1000, 1000, '2026-11-20 10:01Z', false), ('a1', 2, 3, -300, 700, '2026-11-20 10:02Z', true),
               ('b1', 2, 1, 300, 300, '2026-11-20 10:02Z', true), ('a1', 3, 4, -50, 650, '2026-11-21 10:01Z', true),
               ('b1', 3, 2, 50, 350, '2026-11-21 10:01Z', true), ('a1', 4, 5, 0, 650, '2026-11-21 10:02Z', true),
               ('a1', 5, 6, 0, 650, '2026-11-21 10:03Z', true)) e (w, t, seq, delta, after, at, opening);
INSERT INTO bank_events (bank, webhook_id, body_hash, type, reference, bank_reference, amount, currency, status, settled_at)
VALUES ('hdfc', 'msg_1', '', 'deposit.succeeded', '00000000-0000-8000-8000-000000000001', 'ref_1', 1000, 'INR', 'processed', now());
