"""One process of the local engine: `python -m llmanac.data.pipeline.worker FOLDER PULSE`.

Tasks come as lines of JSON on standard input, answers go as lines of JSON to standard output. When standard input
closes, as it does when the parent process dies, the process ends at once: every task is complete or absent.
"""

import functools
import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmanac.core import errors, files
from llmanac.core.errors import LlmanacError
from llmanac.data.pipeline.local import Pulse
from llmanac.data.pipeline.recipe import make_recipe
from llmanac.data.pipeline.tasks import Slow, Task, TaskWorker


def answer(worker: Callable[[], TaskWorker], task: Task) -> dict[str, Any]:
    """Do a task, with the worker that the function returns; the answer as plain data."""
    try:
        worker().do(task)
    except Slow as slow:
        return {"slow": [slow.key, slow.index]}
    except LlmanacError as error:
        kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == errors.__name__)
        return {"error": str(error), "type": kind}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{task['folder']}: {type(error).__name__}: {error}", "unexpected": True}
    return {"done": task["folder"]}


def make_worker(root: Path, beat: Any) -> TaskWorker:
    """A worker of the build in `root`, whose resolved recipe is there."""
    return TaskWorker(root, make_recipe(files.read_json(root / "build.json")["recipe"]), beat)


def main(root: Path, pulse: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints is no answer
    tasks: queue.Queue[Task] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin:
            tasks.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    beat = Pulse(pulse, make=True).beat
    worker = functools.cache(lambda: make_worker(root, beat))
    while True:
        print(json.dumps(answer(worker, tasks.get())), file=answers, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
