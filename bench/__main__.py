"""`./okane bench`: starts a platform of its own with throw-away data, measures, prints a table, and writes it as JSON.

    ./okane bench [--rounds N] [--seconds S] [--json FILE] [--quick | --full] [requests] [doors] [imports] [ledger]

Exit 0 also where an aim is missed: a busy machine is no reason to stop anybody. Exit 1 where a design of the ledger has
lost or made money, whose figures are left out, or where a door tells known addresses from unknown ones. docs/benchmarks.md
says how to read it.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import doors, imports, ledger, requests
from bench.ledger_rounds import Pace
from bench.stand import running

LEAST_ROUNDS = 5
PARTS = ["requests", "doors", "imports", "ledger"]


def main(arguments: list[str]) -> int:
    """Run the benchmarks that are asked for, all unless named."""
    options = _parser().parse_args(arguments)
    rounds = max(options.rounds, 1)
    if rounds < LEAST_ROUNDS:
        say(f"fewer than {LEAST_ROUNDS} rounds: good for a look, not for a result")
    wanted = options.what or PARTS
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    }
    with tempfile.TemporaryDirectory(prefix="okane-bench-") as folder:
        if {"requests", "doors"} & set(wanted):
            stand_folder = Path(folder) / "stand"
            stand_folder.mkdir()
            say("starting a platform")
            with running(stand_folder) as stand:
                if "requests" in wanted:
                    result["requests"] = requests.measure(stand, rounds, options.seconds, say)
                    _show_requests(result["requests"])
                if "doors" in wanted:
                    result["doors"] = doors.measure(stand, rounds, say)
                    _show_doors(result["doors"])
        if "imports" in wanted:
            result["imports"] = imports.measure(Path(folder) / "imports", rounds, say)
            _show_imports(result["imports"])
        if "ledger" in wanted:
            say("starting a Postgres")
            pace = Pace(rounds, options.seconds / 3, say)
            result["ledger"] = ledger.measure(Path(folder) / "ledger", pace, quick=options.quick, full=options.full)
            _show_ledger(result["ledger"])
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if result.get("ledger", {}).get("faults") else 0


def _parser() -> argparse.ArgumentParser:
    bench = argparse.ArgumentParser(prog="./okane bench", description="Measure, as ratios within one run.")
    bench.add_argument("what", nargs="*", choices=PARTS, help="only these (all)")
    bench.add_argument("--rounds", type=int, default=7, metavar="N", help="of which the medians are taken (7)")
    bench.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="of one round, with each number of clients (3)"
    )
    bench.add_argument("--quick", action="store_true", help="of the ledger only the transfer and what bounds it")
    bench.add_argument("--full", action="store_true", help="of the ledger the large cases too, in half an hour")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    return bench


def say(text: str) -> None:
    """A line of progress."""
    print(f"okane: {text}", file=sys.stderr, flush=True)


def _aim(row: dict[str, Any]) -> str:
    if row["aim"] is None:
        return ""
    return f"<= {row['aim']}" + ("" if row["ratio"] <= row["aim"] else "  missed")


def _show_requests(rows: list[dict[str, Any]]) -> None:
    print("\nrequests through the gateway, as multiples of a handler that does nothing\n")
    print(f"  {'clients':<9}{'request':<12}{'p50 ms':>9}{'p99 ms':>9}{'ratio':>8}   aim")
    for row in rows:
        print(
            f"  {row['clients']:<9}{row['request']:<12}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
            f"{row['ratio']:>8.2f}   {_aim(row)}".rstrip()
        )


def _show_doors(rows: list[dict[str, Any]]) -> None:
    print("\na try that proves nothing, for addresses that are known and that are not: the same answers; medians\n")
    print(f"  {'door':<10}{'tries':>7}{'known ms':>10}{'unknown ms':>12}{'ratio':>8}   halves: known, unknown")
    for row in rows:
        print(
            f"  {row['door']:<10}{row['tries']:>7}{row['known_ms']:>10.2f}{row['unknown_ms']:>12.2f}{row['ratio']:>8.3f}"
            f"   {row['noise']['known']:>13.3f}{row['noise']['unknown']:>9.3f}"
        )


def _show_imports(rows: list[dict[str, Any]]) -> None:
    print(f"\nCPU of imports, as multiples of a bare Python with {imports.BASE}\n")
    print(f"  {'import':<29}{'.pyc':<6}{'CPU ms':>9}{'ratio':>8}   aim")
    for row in rows:
        print(
            f"  {row['import']:<29}{'yes' if row['pyc'] else 'no':<6}{row['cpu_ms']:>9.1f}"
            f"{row['ratio']:>8.2f}   {_aim(row)}".rstrip()
        )


def _show_ledger(found: dict[str, Any]) -> None:
    print("\nthe ledger, every commit on the disk\n")
    print(f"  {'clients':<26}{'load':<26}{'a second':>9}{'p50 ms':>9}{'p99 ms':>9}")
    for row in found["loads"]:
        print(f"  {row['group']:<26}{row['load']:<26}{row['rate']:>9,}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}")
    print(f"\n  {'figure':<58}{'aim':>8}{'floor':>7}{'found':>9}")
    for row in found["aims"]:
        aim = "" if row["aim"] is None else f"{'<=' if row['at_most'] else '>='} {row['aim']:g}"
        floor = "" if row["floor"] is None else f"{row['floor']:g}"
        print(f"  {row['figure']:<58}{aim:>8}{floor:>7}{row['found']:>9.2f}  {row['verdict']}".rstrip())
    for design, faults in found["faults"].items():
        print(f"\n  {design}: its books are wrong, so it has no figures")
        print("\n".join(f"    {fault}" for fault in faults[:10]))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
