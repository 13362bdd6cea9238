"""The work of one shard. A task is plain data; what it writes depends on that data and on its input files alone.

Kinds of task, and what their folders hold besides `done.json`:

    describe  which stages are over the corpus; building them finds out what is missing
    scan    a hash and the places to cut at, of some input files
    read    documents of one unit through the first stages: `00000.docs`, ..., and a summary of each for the next
            stage over the corpus
    decide  what a stage over the corpus decides: `00000.decisions`, ..., one a shard
    apply   one shard through a decided stage and those that follow it: as `read`
    write   one file of the output
    undrawn the list of the documents that a mixture does not draw

Checks of files against their hashes: of finished tasks before a build resumes, of the output after its end.

What a task writes depends on its input alone. So a folder that is damaged is removed and its task is done again, alone;
and so is one that a later task needs files of, where these are gone.
"""

import contextlib
import itertools
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmanac.core import files
from llmanac.core.errors import DataError, LlmanacError
from llmanac.core.progress import progress
from llmanac.data.documents import Document
from llmanac.data.pipeline.chain import Chain, Ledger, Limit, PendingDocument, TimeLimit, answer_id, check_answers
from llmanac.data.pipeline.inputs import scan
from llmanac.data.pipeline.reading import UnitReader
from llmanac.data.pipeline.recipe import BuildSpec, stage_keys
from llmanac.data.pipeline.records import RecordWriter, read_records, write_output
from llmanac.data.stages import CorpusStage, Dropped, Stage

PASSING = (".docs", ".summary")  # a build removes these itself when the next pass is done
File = dict[str, Any]  # name, bytes, sha256


class Gone(Exception):
    """Files of finished tasks are gone and needed; those tasks are marked as not done."""


def listed(folder: Path) -> list[File]:
    """The files of a folder, each with its size and hash, in the order of their names."""
    return [file_of(path) for path in sorted(folder.iterdir()) if path.is_file() and path.name != "done.json"]


def file_of(path: Path) -> File:
    """Name, size and hash of a file."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": files.file_sha256(path)}


def _same(path: Path, file: Mapping[str, Any]) -> bool:
    return path.stat().st_size == file["bytes"] and files.file_sha256(path) == file["sha256"]


def drop_damaged(root: Path) -> None:
    """Remove the folders of finished tasks that no longer hold what the tasks wrote."""
    below = root / "work"
    found = [mark.relative_to(below) for mark in below.rglob("done.json")]
    marks = [below / mark for mark in found if not any(part.startswith(files.TEMPORARY) for part in mark.parts)]
    with progress("look at what is finished", total=len(marks), unit="tasks") as bar:
        for mark in sorted(marks):
            if not _whole(root, mark.parent):
                shutil.rmtree(mark.parent)
            bar.advance()


def _whole(root: Path, folder: Path) -> bool:
    # the output's files are moved out of their tasks' folders when all of them are written
    places = [folder, root / "work" / "data", root / "data"] if folder.parent.name == "write" else [folder]
    try:
        for file in files.read_json(folder / "done.json")["files"]:
            path = next((p for place in places if (p := place / file["name"]).is_file()), None)
            if path is None and not file["name"].endswith(PASSING):
                return False
            if path is not None and not _same(path, file):
                return False
    except (DataError, LookupError, TypeError, OSError):
        return False
    return True


def needed(task: Mapping[str, Any]) -> Iterator[str]:
    """The files of finished tasks that a task reads, below the build's folder."""
    if task["kind"] == "apply":
        yield from (task["shard"], task["decisions"])
    yield from task.get("summaries", ())
    yield from (path for path, *_ in task.get("sections", ()))
    for paths in [*task.get("streams", {}).values(), *(paths for paths, *_ in task.get("left", {}).values())]:
        yield from paths


def need(root: Path, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Look for what tasks are made of. Raises Gone when some of it has to be made again first."""
    gone = {Path(name).parent for name in {n for task in tasks for n in needed(task)} if not (root / name).is_file()}
    for folder in gone:
        shutil.rmtree(root / folder, ignore_errors=True)
    if gone:
        raise Gone


def missing_output(root: Path, manifest: Mapping[str, Any]) -> list[str]:
    """The files of a finished build that are gone.

    Raises:
        DataError: one is there and is not what the build wrote.
    """
    wanted = [(f"data/{file['name']}", file) for file in manifest["output"]["files"]]
    wanted += [(f"dropped/{file['name']}", file) for file in manifest.get("lists", ())]
    gone = []
    with progress("check the output", total=max(1, sum(file["bytes"] for _, file in wanted)), unit="B") as bar:
        for name, file in wanted:
            path = root / name
            if not path.is_file():
                gone.append(name)
            elif not _same(path, file):
                raise DataError(
                    f"{path}: is not what the build wrote (the manifest has its hash); delete it and run the same "
                    "command again to have it made anew, or name another --folder to keep it"
                )
            bar.advance(file["bytes"])
    return gone


Task = dict[str, Any]  # kind, folder (below the build's), and what the kind needs
Beat = Callable[[str, int, int, str], None]
WARM = Document("warm-up", "A few words to begin with.\n\nThey are thrown away.\n", "warm-up", {})


class Slow(Exception):
    """A document that took too long where it cannot be dropped on the way: the task starts again without it."""

    def __init__(self, key: str, index: int) -> None:
        super().__init__(key, index)
        self.key, self.index = key, index


class TaskWorker:
    """Does tasks of one build in one process, one at a time; stages are built once.

    Args:
        root: the build's folder.
        beat: called with what is being worked on, `(place, index, count, id)`; once a batch.
    """

    def __init__(self, root: Path, recipe: BuildSpec, beat: Beat) -> None:
        self.root, self.recipe, self.beat = root, recipe, beat
        self.limit = Limit(recipe.limits.timeout)
        self.keys = stage_keys(recipe)
        self._stages: dict[int, Stage | CorpusStage] = {}

    def stage(self, number: int) -> Stage | CorpusStage:
        """Stage `number` of the recipe (from 0), ready to work: what it compiles on its first document is compiled."""
        if number not in self._stages:
            self.beat(self.keys[number + 1], -1, 0, "")  # loading and compiling have no limit
            self._stages[number] = stage = self.recipe.stages[number].build()
            with contextlib.suppress(Exception):  # a stage may well refuse a text of two lines
                if isinstance(stage, Stage):
                    list(stage.apply([WARM]))
                else:
                    with tempfile.TemporaryDirectory() as folder:
                        stage.summarise(iter([WARM]), Path(folder) / "summary")
        return self._stages[number]

    def do(self, task: Task) -> None:
        """Do a task that is not done yet.

        Raises:
            LlmanacError: the build cannot go on; the message says what to do.
            Slow: do it again, with this document in `task["skip"]`.
        """
        target = self.root / task["folder"]
        if (target / "done.json").is_file():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_folder(target) as folder:
            done = getattr(self, f"_{task['kind']}")(task, folder)
            done.setdefault("files", listed(folder))
            files.write_json(folder / "done.json", done)

    def _describe(self, task: Task, folder: Path) -> dict[str, Any]:
        stages = [self.stage(number) for number in range(len(self.recipe.stages))]
        return {"corpus": [number for number, stage in enumerate(stages) if isinstance(stage, CorpusStage)]}

    def _scan(self, task: Task, folder: Path) -> dict[str, Any]:
        return {"found": [scan(entry, self.recipe.shard_bytes) for entry in task["entries"]]}

    def _read(self, task: Task, folder: Path) -> dict[str, Any]:
        ledger = Ledger(folder, self.recipe.output.dropped == "texts")
        reader = UnitReader(self.recipe, task, ledger, self.limit, self.beat)
        return self._pass(task, folder, ledger, reader.items())

    def _apply(self, task: Task, folder: Path) -> dict[str, Any]:
        ledger = Ledger(folder, self.recipe.output.dropped == "texts")
        number = task["decided"]
        stage = self.stage(number)
        assert isinstance(stage, CorpusStage)
        items = self._decided(self.keys[number + 1], stage, task, ledger)
        return self._pass(task, folder, ledger, items)

    def _decided(self, key: str, stage: CorpusStage, task: Task, ledger: Ledger) -> Iterator[PendingDocument]:
        """A shard through a stage that has decided."""
        waiting: deque[PendingDocument] = deque()
        counts = ledger.of(key)
        self.beat(key, -1, 0, "")

        def feed() -> Iterator[Document]:
            for index, (document, data) in enumerate(read_records(self.root / task["shard"])):
                counts.enter(len(data))
                waiting.append(PendingDocument(index, document, data))
                yield document

        for answer in stage.apply(feed(), self.root / task["decisions"]):
            check_answers(key, [waiting[0].document.id] if waiting else [], [answer_id(answer)])
            item = waiting.popleft()
            self.beat(key, item.number, 1, item.document.id)
            if isinstance(answer, Dropped):
                ledger.drop(key, item.document.id, answer.reason, answer.detail, answer.document.text)
            elif kept := ledger.passed(key, item, answer):
                yield kept
        if waiting:
            check_answers(key, [item.document.id for item in waiting], [])

    def _pass(self, task: Task, folder: Path, ledger: Ledger, items: Iterator[PendingDocument]) -> dict[str, Any]:
        """Documents through the task's stages into shards, each summarised for the next stage over the corpus."""
        stages = [(self.keys[n + 1], self.stage(n)) for n in task["stages"]]
        skip = frozenset((key, index) for key, index in task.get("skip", ()))
        chain = Chain(
            [(key, stage) for key, stage in stages if isinstance(stage, Stage)],
            ledger,
            self.limit,
            fatal=self.recipe.on_error == "fatal",
            skip=skip,
            beat=self.beat,
            **({"batch": 1} if task.get("careful") else {}),
        )
        shards: list[dict[str, Any]] = []
        stream = chain.run(items)
        for first in stream:
            name = f"{len(shards):05d}"
            writer = RecordWriter(folder / f"{name}.docs")
            feed = self._fill(task, ledger, itertools.chain([first], stream), writer, skip)
            if task["summarise"] is None:
                for _ in feed:
                    pass
            else:
                self._summarise(task["summarise"], feed, folder / f"{name}.summary")
            writer.close()
            shards.append({"name": name, "documents": writer.documents, "bytes": writer.bytes})
        ledger.close()
        counts = {key: counts.as_json() for key, counts in sorted(ledger.counts.items())}
        return {"shards": shards, "counts": counts}

    def _fill(
        self,
        task: Task,
        ledger: Ledger,
        stream: Iterator[PendingDocument],
        writer: RecordWriter,
        skip: frozenset[tuple[str, int]],
    ) -> Iterator[PendingDocument]:
        """Write documents to a shard until it is full, and pass them on."""
        key = "" if task["summarise"] is None else self.keys[task["summarise"] + 1]
        for item in stream:
            if skip and (key, item.number) in skip:
                ledger.of(key).enter(len(item.data))
                detail = f"more than {self.limit.seconds:g} s of CPU (limits.timeout)"
                ledger.drop(key, item.document.id, "timeout", detail, item.document.text)
            else:
                writer.write(item.document, item.data)
                yield item
            if writer.bytes >= self.recipe.shard_bytes:
                return

    def _summarise(self, number: int, feed: Iterator[PendingDocument], summary: Path) -> None:
        """Give a stage over the corpus its first look at a shard; between two documents it has the time of one."""
        stage, key = self.stage(number), self.keys[number + 1]
        assert isinstance(stage, CorpusStage)
        last = -1

        def documents() -> Iterator[Document]:
            nonlocal last
            for item in feed:
                last = item.number
                self.beat(key, last, 1, item.document.id)
                with self.limit:
                    yield item.document
            self.beat(key, -1, 0, "")  # what it does with all of them together has no limit

        try:
            stage.summarise(documents(), summary)
        except TimeLimit:
            raise Slow(key, last) from None
        for _ in feed:  # documents that the stage did not look at belong to the shard too
            pass
        if not summary.is_file():
            raise LlmanacError(f"stage {key}: summarise wrote no file {summary.name}")

    def _decide(self, task: Task, folder: Path) -> dict[str, Any]:
        stage = self.stage(task["decided"])
        assert isinstance(stage, CorpusStage)
        summaries = [self.root / name for name in task["summaries"]]
        decisions = [folder / f"{n:05d}.decisions" for n in range(len(summaries))]
        self.beat(self.keys[task["decided"] + 1], -1, 0, "")
        found = stage.decide(summaries, decisions, memory=self.recipe.limits.memory)
        missing = next((path.name for path in decisions if not path.is_file()), None)
        if missing:
            raise LlmanacError(f"stage {self.keys[task['decided'] + 1]}: decide wrote no file {missing}")
        return {"found": found}

    def _write(self, task: Task, folder: Path) -> dict[str, Any]:
        from llmanac.data.pipeline.mixing import OutputTally, output_records

        path, tally = folder / task["name"], OutputTally()
        self.beat("write", -1, 0, task["name"])
        write_output(path, output_records(self.root, task, tally), self.recipe.output.format)
        return {"files": [file_of(path)], "html": tally.html, "domain_bytes": dict(tally.bytes)}

    def _undrawn(self, task: Task, folder: Path) -> dict[str, Any]:
        from llmanac.data.pipeline.mixing import NOT_DRAWN, undrawn_records

        ledger = Ledger(folder, self.recipe.output.dropped == "texts")
        self.beat("write", -1, 0, task["key"])
        for name, left in task["left"].items():
            for record in undrawn_records(self.root, *left):
                text = record.data.decode("utf-8") if ledger.texts else None
                ledger.drop(task["key"], record.id, NOT_DRAWN, task["details"][name], text)
        ledger.close()
        return {}
