"""Webhooks from banks, per Standard Webhooks 1.0: who sent this, and is it recent?"""

import json
from collections.abc import Mapping

from standardwebhooks import Webhook, WebhookVerificationError

from okane_common import settings
from okane_common.errors import Refusal

MAX_ID_CHARACTERS = 255


def _load() -> dict[str, tuple[Webhook, ...]]:
    secrets = json.loads(settings.secret("BANK_SECRETS").reveal())
    return {bank: tuple(Webhook(secret) for secret in several) for bank, several in secrets.items()}


_BANKS = _load()


def verify(bank: str, headers: Mapping[str, str], body: bytes) -> str:
    """Return the webhook's id if one of the bank's live secrets signed this body within 300 s of now, either way.

    `headers` have lower-case names. Raises Refusal(signature_invalid), one message for every reason, so that nothing is
    learnt about banks and secrets by trying.
    """
    webhook_id = headers.get("webhook-id", "")
    if 0 < len(webhook_id) <= MAX_ID_CHARACTERS and webhook_id.isprintable():
        for webhook in _BANKS.get(bank, ()):
            try:
                webhook.verify(body, dict(headers), json_parse=False)
            except (
                WebhookVerificationError,
                ValueError,
            ):  # ValueError: malformed base64, UTF-8 or header lists
                continue
            return webhook_id
    raise Refusal("signature_invalid", "The bank, the signature or the timestamp is not right.")
