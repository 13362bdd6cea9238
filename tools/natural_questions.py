"""Score a run's documentation assistant on natural questions (`evidence/docs_assistant/`).

    python tools/natural_questions.py runs/quickstart evidence/docs_assistant/work.jsonl [--json OUT.json]

Prints one row for each kind of question, and the same as one line of JSON; no question and no answer is shown. What
the columns count is said in `llmanac/recipes/natural_questions.py`. With --json the scores are put into that file,
with those of other question files, with 95% intervals.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llmanac.core import files
from llmanac.data.sources.python_docs import Spec
from llmanac.generate.load import load_engine
from llmanac.recipes.documentation import open_assistant
from llmanac.recipes.natural_questions import Score, interval, read_questions, run_scores, table

COLUMNS = tuple(Score.__dataclass_fields__)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the folder of a finished quickstart run")
    parser.add_argument("questions", type=Path, help="a file of questions")
    parser.add_argument("--json", type=Path, help="a file to put the scores into")
    choices = parser.parse_args()
    questions = read_questions(choices.questions)
    assistant = open_assistant(choices.run, load_engine(choices.run))
    if assistant is None:
        parser.error(f"{choices.run}: this run has no assistant")
    spec = Spec()
    found = table(questions, run_scores(assistant, spec, questions))
    print(f"{'':14}{'questions':>10}" + "".join(f"{name:>10}" for name in COLUMNS))
    for kind, row in found.items():
        print(f"{kind:14}{row['questions']:>10}" + "".join(f"{row[name]:>10}" for name in COLUMNS))
    print(json.dumps({"file": choices.questions.name, "scores": found}))
    if choices.json:
        kept = files.read_json(choices.json) if choices.json.is_file() else {"files": {}}
        kept |= {"run": "quickstart", "seed": files.read_json(choices.run / "results.json")["seed"]}
        kept["python"] = spec.version()
        kept["files"][choices.questions.stem] = {
            kind: row
            | {
                f"{name} interval": [round(x, 3) for x in interval(int(row[name]), int(row["questions"]))]
                for name in COLUMNS
            }
            for kind, row in found.items()
        }
        files.write_json(choices.json, kept)


if __name__ == "__main__":
    main()
