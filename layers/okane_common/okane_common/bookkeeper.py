"""What the books need without anybody asking: holds that run out, arrivals, withdrawals that nobody answers, and the audit."""

from collections.abc import Callable

from okane_common import audit, cache, database
from okane_common.observability import logger, measure

HOLDS = 100  # holds released in one call
ARRIVALS = 1000  # arrivals folded in one call
FORGOTTEN = 1000  # rows of each kind, in one call
BATCH_SECONDS = 4.0  # what one more call may take; with less left, the next run goes on
UNANSWERED_SECONDS = 24 * 3600  # after which a bank's silence is somebody's business


def sweep(seconds_left: Callable[[], float]) -> dict[str, int]:
    """Release the holds whose time is over, fold in what has arrived, count the withdrawals that no bank has answered, and forget
    codes, tries and sessions that are long over.

    seconds_left: how long this run may still take. -> {"released", "folded", "forgotten", "unanswered"}.
    Raises database.Unavailable.
    """
    unanswered: int = database.call("count_unanswered", UNANSWERED_SECONDS)["count"]
    measure("WithdrawalsUnanswered", unanswered)
    released = folded = 0
    while seconds_left() > BATCH_SECONDS:
        batch = database.call("sweep_holds", HOLDS)
        cache.publish(batch["changed"])
        released += batch["released"]
        if not batch["released"]:
            break
    while seconds_left() > BATCH_SECONDS:
        some: int = database.call("fold_arrivals", ARRIVALS)["folded"]
        folded += some
        if not some:
            break
    forgotten = 0
    while seconds_left() > BATCH_SECONDS:
        some = database.call("forget_what_is_over", FORGOTTEN)["forgotten"]
        forgotten += some
        if not some:
            break
    return {"released": released, "folded": folded, "forgotten": forgotten, "unanswered": unanswered}


def audit_recent(seconds_left: Callable[[], float]) -> dict[str, int]:
    """Audit what is new, and tell. -> {"finished": 0 or 1, "differences"}. Raises database.Unavailable."""
    return _tell(audit.run_recent(seconds_left))


def audit_full(seconds_left: Callable[[], float], *, only_go_on: bool = False) -> dict[str, int]:
    """Audit everything, as far as the time goes, and tell at the end. only_go_on: with one that is under way, if one is.

    -> {"finished": 0 or 1, "differences"}, or nothing where there was nothing to do. Raises database.Unavailable.
    """
    found = audit.run_full(seconds_left, only_go_on=only_go_on)
    return _tell(found) if found else {}


def _tell(found: audit.Found) -> dict[str, int]:
    if found.finished:
        measure("AuditFullFinished" if found.scope == "full" else "AuditRecentFinished", 1)
    if found.finished or found.scope == "recent":
        measure("AuditDifferences", found.total)
        said = {"scope": found.scope, "finished": found.finished, "checked": found.checked, "differences": found.total}
        logger.info("audited", extra=said)
        for difference in found.differences:
            logger.error("the books differ", extra={"scope": found.scope, **difference})
    return {"finished": int(found.finished), "differences": found.total}
