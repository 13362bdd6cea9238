"""The passes of a build in order; a build that was stopped goes on where it was.

FOLDER/build.json       the resolved recipe and what else identifies the build; written first
FOLDER/inputs.jsonl     one line an input file, with its hash; written when all are read once
FOLDER/work             the folders of finished tasks; gone at the end
FOLDER/data/            the output        FOLDER/dropped/   one file a stage, a line for each document dropped
FOLDER/manifest.json    what was made of what; written last, and the mark that the build is finished
"""

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmanac.core import files
from llmanac.core.errors import DataError
from llmanac.core.lock import locked
from llmanac.core.progress import progress
from llmanac.core.spec import flatten
from llmanac.core.threads import cores
from llmanac.data.pipeline import finish, inputs
from llmanac.data.pipeline.chain import StageCounts
from llmanac.data.pipeline.recipe import BuildSpec, identity, stage_keys
from llmanac.data.pipeline.tasks import Gone, Task, drop_damaged, missing_output, need

EngineName = Literal["local", "ray"]
# in the order in which they are removed: a folder without manifest.json is not finished, one with build.json is ours
OURS = ("manifest.json", "data", "dropped", "inputs.jsonl", "work", "recipe.toml", "stages.svg", "build.json")
AGAIN = "build into another --folder, or anew with --no-resume"


class OtherBuild(DataError):
    """The recipe, the code or the input is not what the build was begun with."""


@dataclass(frozen=True)
class Segment:
    """What one pass runs: a corpus stage that has decided, the stages after it, the next corpus stage's summaries."""

    decided: int | None
    stages: tuple[int, ...]
    summarise: int | None


def segments(recipe: BuildSpec, corpus: list[int]) -> list[Segment]:
    """The passes of a recipe, whose stages `corpus` are over the corpus."""
    starts, ends = [None, *corpus], [*corpus, None]
    found = []
    for decided, summarise in zip(starts, ends, strict=True):
        first = 0 if decided is None else decided + 1
        last = len(recipe.stages) if summarise is None else summarise
        found.append(Segment(decided, tuple(range(first, last)), summarise))
    return found


def build(
    recipe: BuildSpec,
    folder: str | Path,
    *,
    workers: int | None = None,
    engine: EngineName = "local",
    resume: bool = True,
) -> dict[str, Any]:
    """Build a corpus; returns its manifest.

    Args:
        workers: processes; as many as this process or the cluster has cores by default. They change the time alone.
        resume: go on with what is in the folder; else what an earlier build left there is removed first.

    Raises:
        LlmanacError: another build holds the folder, a process died, or the disk is full.
        DataError: the recipe or the input is not what the folder was begun with, or there is no text.
    """
    place = Path(folder)
    with files.refusing(place):
        if workers is not None and workers < 1:
            raise DataError(f"--workers: {workers} is not at least 1")
        existed = place.exists()
        if existed and not place.is_dir():
            raise DataError(f"{place}: is a file; name a folder with --folder")
        if existed and not (place / "build.json").exists():
            # a build may have been killed before its first file had its name
            others = sorted(
                p.name for p in place.iterdir() if p.name != ".lock" and not p.name.startswith(files.TEMPORARY)
            )
            if others:
                raise DataError(f"{place}: holds other files ({others[0]}); name a new folder with --folder")
        listing = inputs.list_inputs(recipe)
        with locked(
            place / ".lock", busy=f"{place}: another build is at work in this folder; wait for it or name another"
        ):
            done = _Build(recipe, place, listing)
            if (found := done.prepare(resume)) is not None:
                return found
            inputs.check_libraries(listing, recipe.on_error)
            done.engine = _engine(engine, place, workers, recipe.limits.timeout)
            try:
                return done.all()
            finally:
                done.engine.close()


def _engine(name: str, folder: Path, workers: int | None, limit: float) -> Any:
    if name == "ray":
        from llmanac.data.pipeline.ray import RayEngine

        return RayEngine(folder, workers=workers)
    if name != "local":
        raise DataError(f"--engine: {name!r} is not one of local, ray")
    from llmanac.data.pipeline.local import LocalEngine

    return LocalEngine(folder, workers=workers or cores(), limit=limit)


def _readable(path: Path, hint: str) -> Any:
    try:
        return files.read_json(path)
    except DataError as error:
        raise DataError(f"{error}; {hint}") from None


class _Build:
    def __init__(self, recipe: BuildSpec, folder: Path, listing: list[inputs.Entry]) -> None:
        self.recipe, self.folder, self.listing = recipe, folder, listing
        self.keys = stage_keys(recipe)
        self.work = folder / "work"
        self.engine: Any = None
        self._slow: dict[str, dict[str, Any]] = {}

    # ---------------------------------------------------------------- what is there already

    def prepare(self, resume: bool) -> dict[str, Any] | None:
        """Make the folder ready; returns the manifest of a build that is finished. Raises DataError."""
        state = json.loads(json.dumps(identity(self.recipe)))
        mark = self.folder / "build.json"
        if mark.exists() and not resume:
            for name in OURS:
                path = self.folder / name
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
        elif not (self.folder / "inputs.jsonl").exists():
            if (self.folder / "manifest.json").exists():
                raise DataError(f"{self.folder}/inputs.jsonl: is gone, so the input cannot be checked; {AGAIN}")
            shutil.rmtree(self.work, ignore_errors=True)  # nothing was read yet: begin anew, whatever it was
        else:
            self._check(state, _readable(mark, AGAIN))
        files.write_json(mark, state)  # first of all: it is what makes the folder a build's
        self.work.mkdir(exist_ok=True)
        manifest = self.folder / "manifest.json"
        if manifest.exists():
            found = _readable(manifest, "delete it and run the same command again")
            if not isinstance(found, dict) or not {"output", "stages", "inputs"} <= found.keys():
                raise DataError(f"{manifest}: is no manifest of a build; delete it and run the same command again")
            if not missing_output(self.folder, found):
                finish.write_beside(self.folder, self.recipe, found["stages"])
                shutil.rmtree(self.work)
                return found
            manifest.unlink()  # not finished any more; what is lost is made again
        for log in self.work.glob("worker-*.log"):
            log.unlink()
        drop_damaged(self.folder)
        with contextlib.suppress(DataError):  # without it, what was slow is found out again
            self._slow = files.read_json(self.work / "slow.json")
        return None

    def _check(self, now: dict[str, Any], before: dict[str, Any]) -> None:
        """Refuse to go on with another recipe, other code or other input."""
        if now != before:
            new, old = flatten(now), flatten(before)
            key = next((k for k in sorted({*new, *old}) if new.get(k) != old.get(k)), "recipe")
            what = f"{key.removeprefix('recipe.')} was {old.get(key)!r} and is {new.get(key)!r}"
            if key.startswith("stages") and not key.startswith("stages."):
                what = "the code of a stage has changed"
            raise OtherBuild(f"{self.folder}: was begun with another recipe: {what}; {AGAIN}")
        known = self.folder / "inputs.jsonl"
        if known.exists():
            entries = list(inputs.read_listing(known))
            other = inputs.changed(entries, self.listing)
            if other:
                raise OtherBuild(f"{self.folder}: was begun with other input: {other}; {AGAIN}")
            renewed = [{**old, **new} for old, new in zip(entries, self.listing, strict=True)]
            if renewed != entries:  # the same content in a file that was touched or moved
                inputs.write_listing(known, renewed)

    # ---------------------------------------------------------------- the passes

    def all(self) -> dict[str, Any]:
        """Do what is not done, and again where that takes what was done before and is gone."""
        while True:
            with contextlib.suppress(Gone):
                return self._passes()

    def _passes(self) -> dict[str, Any]:
        parts = segments(self.recipe, self._corpus_stages())
        entries = self._scan()
        units = inputs.units(entries, self.recipe.shard_bytes)
        counts = {key: StageCounts() for key in self.keys}
        shards: list[dict[str, Any]] = []
        found: dict[str, Any] = {}
        dropped: list[Path] = []
        for number, part in enumerate(parts):
            tasks = self._pass_tasks(number, part, units, shards, found)
            label = " + ".join(["read"] * (number == 0) + [self.keys[n + 1][3:] for n in self._of(part)])
            self._run(label or "read", tasks, [t.pop("size") for t in tasks])
            for shard in shards if number else ():
                for suffix in ("docs", "summary"):
                    (self.folder / f"{shard['base']}.{suffix}").unlink(missing_ok=True)
            shards = self._collect(tasks, counts, dropped)
            if number == 0:
                self._need_text(counts[self.keys[0]], dropped)
        return self._finish(entries, counts, shards, found, dropped)

    @staticmethod
    def _of(part: Segment) -> list[int]:
        return [*([] if part.decided is None else [part.decided]), *part.stages]

    def _corpus_stages(self) -> list[int]:
        """Which stages are over the corpus. A worker builds them, not this process."""
        task: Task = {"kind": "describe", "folder": "work/describe"}
        self._run("load the stages", [task], [1])
        return list(files.read_json(self.folder / task["folder"] / "done.json")["corpus"])

    def _scan(self) -> list[inputs.Entry]:
        known = self.folder / "inputs.jsonl"
        if not known.exists():
            shutil.rmtree(self.work / "scan", ignore_errors=True)  # of an earlier try, perhaps of other content
            groups: list[list[inputs.Entry]] = []
            held = 0
            for entry in self.listing:
                if not groups or held > self.recipe.shard_bytes or len(groups[-1]) >= 1000:
                    groups.append([])
                    held = 0
                groups[-1].append(entry)
                held += entry["bytes"]
            tasks: list[Task] = [
                {"kind": "scan", "folder": f"work/scan/{n:05d}", "entries": [e for e in group if inputs.is_read(e)]}
                for n, group in enumerate(groups)
            ]
            self._run("look at the input", tasks, [sum(e["bytes"] for e in group) for group in groups])
            for task in tasks:
                done = files.read_json(self.folder / task["folder"] / "done.json")
                for entry, seen in zip(task["entries"], done["found"], strict=True):
                    entry.update(seen)
            inputs.write_listing(known, self.listing)
            shutil.rmtree(self.work / "scan", ignore_errors=True)
        return list(inputs.read_listing(known))

    def _pass_tasks(
        self,
        number: int,
        part: Segment,
        units: list[dict[str, Any]],
        shards: list[dict[str, Any]],
        found: dict[str, Any],
    ) -> list[Task]:
        common = {"stages": list(part.stages), "summarise": part.summarise}
        if part.decided is None:
            return [
                {
                    "kind": "read", "folder": f"work/pass-0/{n:05d}", "input": unit["input"], "parts": unit["parts"],
                    "size": unit["bytes"], **common,
                }
                for n, unit in enumerate(units)
            ]  # fmt: skip
        key = self.keys[part.decided + 1]
        decide: Task = {
            "kind": "decide", "folder": f"work/decide-{number}", "decided": part.decided,
            "summaries": [f"{shard['base']}.summary" for shard in shards],
        }  # fmt: skip
        self._run(f"{key[3:]}: decide", [decide], [1])
        found[key] = files.read_json(self.folder / decide["folder"] / "done.json")["found"]
        return [
            {
                "kind": "apply", "folder": f"work/pass-{number}/{n:05d}", "input": shard["input"],
                "shard": f"{shard['base']}.docs", "decisions": f"work/decide-{number}/{n:05d}.decisions",
                "decided": part.decided, "decided_key": key, "size": shard["bytes"], **common,
            }
            for n, shard in enumerate(shards)
        ]  # fmt: skip

    def _run(self, label: str, tasks: Sequence[Task], sizes: Sequence[int]) -> None:
        """Do the tasks that are not done."""
        size = {task["folder"]: n for task, n in zip(tasks, sizes, strict=True)}
        left = [task for task in tasks if not (self.folder / task["folder"] / "done.json").is_file()]
        for task in left:
            task.update(self._slow.get(task["folder"], {}))
        if not left:
            return
        need(self.folder, left)
        done = 0
        total, unit = max(1, sum(size[task["folder"]] for task in left)), "B" if max(sizes) > 1 else "shards"
        with progress(label, total=total, unit=unit) as bar:

            def advance(task: Task | None) -> None:
                """A task is done; or, with None, time has passed."""
                nonlocal done
                done += task is not None
                bar.advance(size[task["folder"]] if task else 0, shards=f"{done} of {len(left)}")

            self.engine.run(left, advance, self._slowed)

    def _slowed(self, task: Task, key: str, index: int, exact: bool) -> None:
        """Remember that a document was too slow, here and for a later process that resumes this build."""
        if exact:
            task["skip"] = [*task.get("skip", []), [key, index]]
        else:
            task["careful"] = True
        self._slow[task["folder"]] = {k: task[k] for k in ("skip", "careful") if k in task}
        files.write_json(self.work / "slow.json", self._slow)

    def _collect(
        self, tasks: Sequence[Task], counts: dict[str, StageCounts], dropped: list[Path]
    ) -> list[dict[str, Any]]:
        """The shards that a pass left, and what it counted."""
        shards = []
        for task in tasks:
            done = files.read_json(self.folder / task["folder"] / "done.json")
            for key, of in done["counts"].items():
                counts[key].add(of)
            dropped += [self.folder / task["folder"] / f"dropped-{key}.jsonl" for key in done["counts"]]
            for shard in done["shards"]:
                shards.append({**shard, "base": f"{task['folder']}/{shard['name']}", "input": task["input"]})
        return shards

    def _need_text(self, counts: StageCounts, dropped: list[Path]) -> None:
        if counts.documents_out:
            return
        lists = (path for path in dropped if path.is_file())
        first = next((json.loads(line) for path in lists for line in path.read_bytes().splitlines()[:1]), None)
        if first is None:
            raise DataError("inputs: the corpus is empty; every file is blank, or there is none")
        raise DataError(
            f"inputs: no usable text; all {counts.documents_in:,} rows were set aside, the first ({first['id']}) as "
            f"{first['reason']}: {first['detail']}"
        )

    def _finish(
        self,
        entries: list[inputs.Entry],
        counts: dict[str, StageCounts],
        shards: list[dict[str, Any]],
        found: dict[str, Any],
        dropped: list[Path],
    ) -> dict[str, Any]:
        plans, drawn, undrawn = finish.plan_output(self.folder, self.recipe, shards)
        tasks: list[Task] = [
            {"kind": "write", "folder": f"work/write/{n:05d}", "name": f"{n:05d}.{self.recipe.output.format}", **plan}
            for n, plan in enumerate(plans)
        ]
        self._run("write", [*tasks, *undrawn], [1] * (len(tasks) + len(undrawn)))
        written = [files.read_json(self.folder / task["folder"] / "done.json") for task in tasks]
        finish.gather([(self.folder / t["folder"] / t["name"], t["name"]) for t in tasks], self.folder)
        dropped += [self.folder / task["folder"] / f"dropped-{task['key']}.jsonl" for task in undrawn]
        finish.gather_lists(self.folder, [*self.keys, *(task["key"] for task in undrawn)], dropped)
        stages = [
            {"key": key, "name": key[3:], **counts[key].as_json(), **({"found": found[key]} if key in found else {})}
            for key in self.keys
        ]
        output = finish.output_of(self.recipe, shards, drawn, written)
        manifest = finish.write_all(self.folder, self.recipe, entries, stages, output)
        shutil.rmtree(self.work)
        return manifest
