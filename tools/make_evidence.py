"""Run the studies that come with the package, one after the other, and keep their pages under docs/evidence/.

python tools/make_evidence.py                    every study; hours, on a machine that does nothing else
python tools/make_evidence.py positions_small    only those named; --budget and --seeds go to each
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmanac.lab.compare import run_study, studies

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / "studies" / "cache"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(sorted(studies()))}")
    parser.add_argument("--budget")
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--artefact", default="runs/quickstart", help="the run that decoding methods are applied to")
    given = parser.parse_args()
    for name in given.names or sorted(studies()):
        artefact = given.artefact if name == "decoding" else None
        folder = ROOT / "docs" / "evidence" / name
        done = run_study(name, folder=folder, cache=CACHE, budget=given.budget, seeds=given.seeds, artefact=artefact)
        print(done.markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
