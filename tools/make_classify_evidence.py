"""Measure the claims about classifiers on SST-2 and keep their pages under docs/evidence/classify/.

python tools/make_classify_evidence.py --data DATA/sst2            measure, then write every page; about half an hour
python tools/make_classify_evidence.py --pages                     write the pages again from what was measured

DATA/sst2 holds stsa.binary.train and stsa.binary.test, one `label text` a line.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from llmanac.core.files import read_json
from llmanac.data.labelled import read_labelled
from llmanac.lab.classification.claim_pages import write_pages
from llmanac.lab.classification.evidence import FILE, measure_claims
from llmanac.lab.classification.table import parse_sizes

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "docs" / "evidence" / "classify"
TRAIN, TEST = "stsa.binary.train", "stsa.binary.test"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "sst2")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sizes", default="10,30,100,300,1000")
    parser.add_argument("--steps", type=int, default=250, help="of the small language model")
    parser.add_argument("--folder", type=Path, default=EVIDENCE)
    parser.add_argument("--pages", action="store_true", help="measure nothing; write the pages again")
    given = parser.parse_args(arguments)
    if not given.pages:
        train, test = read_labelled(given.data / TRAIN), read_labelled(given.data / TEST)
        command = f"python tools/make_classify_evidence.py --data DATA/sst2 --seeds {given.seeds} --steps {given.steps}"
        sizes = parse_sizes(given.sizes)
        measure_claims(train, test, given.folder, seeds=given.seeds, sizes=sizes, steps=given.steps, command=command)
    for path in write_pages(given.folder, read_json(given.folder / FILE)):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
