"""`relic doctor`: check that this machine can play, and tell what to do where it cannot."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relic_app.diagnosis import Finding
    from relic_app.prospects import Prospect

_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `relic doctor`."""
    parser.add_argument("--weights", type=Path, help="weights folder (default: $RELIC_WEIGHTS or weights/)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run every check and print it; the status is 1 when playing lacks something."""
    from relic_app.diagnosis import diagnose

    findings: list[Finding] = []
    for finding in diagnose(options.weights):
        findings.append(finding)
        if not options.json:
            _print(finding)
    failed = sum(finding.status == "fail" for finding in findings)
    worlds = _prospects(options.weights)
    if options.json:
        print(
            json.dumps(
                {
                    "ok": not failed,
                    "findings": [dataclasses.asdict(finding) for finding in findings],
                    "presets": [dataclasses.asdict(world) for world in worlds],
                },
                indent=2,
            )
        )
        return 1 if failed else 0
    for world in worlds:
        print(f"{'ok  ' if world.runs else '--  '}  preset {world.preset}: {world.detail}")
    warned = sum(finding.status == "warn" for finding in findings)
    if failed:
        print(f"{failed} to mend before playing")
    elif warned:
        print(f"playing lacks nothing: `relic play`; {warned} for other work")
    else:
        print("everything is fine: `relic play`")
    return 1 if failed else 0


def _print(finding: Finding) -> None:
    print(f"{_MARKS[finding.status]}  {finding.name}: {finding.detail}", flush=True)
    if finding.status != "ok":
        print(f"      -> {finding.remedy}", flush=True)


def _prospects(weights: Path | None) -> list[Prospect]:
    """What the presets need; nothing where torch itself is missing, which a check has said."""
    try:
        from relic.weights import default_weights_dir
        from relic_app.prospects import prospects, this_machine

        return list(prospects(this_machine(), weights or default_weights_dir()))
    except ImportError:
        return []
