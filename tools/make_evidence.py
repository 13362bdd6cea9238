"""Run the studies that come with the package, one after the other, and keep their pages under docs/evidence/.

python tools/make_evidence.py                    every study; hours, on a machine that does nothing else
python tools/make_evidence.py positions_small    only those named; --budget and --seeds go to each
python tools/make_evidence.py --check            mark the pages whose code has changed; exit status 1 if there is one
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmanac.lab.compare import run_study, studies
from llmanac.lab.report import RESULT, mark_stale

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence"
CACHE = ROOT / "studies" / "cache"


def check(evidence: Path) -> dict[str, list[str]]:
    """Mark every page below a folder whose code has changed since; returns what changed, by the study's name.

    Raises:
        DataError: a study.json that is not the result of a study.
    """
    found = {path.parent.name: mark_stale(path.parent) for path in sorted(evidence.rglob(RESULT))}
    return {name: changed for name, changed in found.items() if changed}


def main(arguments: list[str] | None = None, evidence: Path = EVIDENCE) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(sorted(studies()))}")
    parser.add_argument("--budget")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--artefact", default="runs/quickstart", help="the run that decoding methods are applied to")
    parser.add_argument("--check", action="store_true", help="run nothing; only mark the pages that are stale")
    given = parser.parse_args(arguments)
    if given.check:
        stale = check(evidence)
        for name, changed in stale.items():
            print(f"{name}: stale, {', '.join(changed)} changed; make it again: python tools/make_evidence.py {name}")
        return 1 if stale else 0
    for name in given.names or sorted(studies()):
        artefact = given.artefact if name == "decoding" else None
        done = run_study(
            name, folder=evidence / name, cache=CACHE, budget=given.budget, seeds=given.seeds, artefact=artefact
        )
        print(done.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
