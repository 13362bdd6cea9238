"""The guide as HTML: the same pages live and as a folder that reads well without a server and without JavaScript."""

import posixpath
import re
from collections import Counter
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from llmanac.core import catalogue, files
from llmanac.core.errors import SpecError
from llmanac.core.progress import progress
from llmanac.guide import chapter, markdown, mock, paths
from llmanac.guide import plan as planning
from llmanac.guide.check import FORMS
from llmanac.guide.demos import Demo, Models, demos
from llmanac.guide.exercise import Verdict, exercises
from llmanac.guide.explorables import explorables, scripts
from llmanac.guide.pages import PARTS, Page, evidence, pages
from llmanac.guide.progress import ReviewLog
from llmanac.guide.question import LEVELS, RESULTS, ROLES, InterviewQuestion, questions
from llmanac.guide.search import index, search
from llmanac.guide.tables import about, chapters

TEMPLATES = Path(__file__).parent / "templates"
ASKED = 5  # questions of a mock interview
EXPORT_SECONDS = 600.0  # of a demo in an exported folder: nobody waits for it, and a busy machine must not end it
ASSETS = {name: TEMPLATES / name for name in ("style.css", "search.js")} | scripts()


class Site:
    """Every page of the guide by path.

    Args:
        token: of a live app, which forms carry; empty for a folder, where there are no forms.
        progress: reviews and the day of an interview; for a live app.
        models: what demos run on; a folder has the results of a small one.
    """

    def __init__(self, token: str = "", progress: ReviewLog | None = None, models: Models | None = None) -> None:
        self.token, self.progress = token, progress
        self.models = models or Models(small=True)
        self.grader: mock.Grader | None = None
        self._templates = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters["said"] = _said
        self._templates.globals["name_of"] = lambda id: pages()[id].entry.title if id in pages() else id

    def paths(self) -> list[str]:
        """The path of every page."""
        rows = [f"row/{name}.html" for name in pages()]
        kinds = [f"kind/{name}.html" for name in sorted({page.kind for page in pages().values()})]
        studies = [f"evidence/{name}/page.html" for name in evidence()]
        tasks = [f"exercise/{name}.html" for name in exercises()]
        asked = [f"question/{name}.html" for name in questions()]
        return [
            "index.html",
            "search.html",
            "exercises.html",
            "questions.html",
            *kinds,
            *rows,
            *studies,
            *(f"chapter/{name}.html" for name in chapters()),
            "paths.html",
            *(f"path/{found.name}.html" for found in paths.load()),
            *(f"area/{found.name}.html" for found in paths.areas()),
            "demos.html",
            *(f"demo/{name}.html" for name in demos()),
            "explorables.html",
            *(f"explore/{name}.html" for name in explorables()),
            *tasks,
            *asked,
        ]

    def page(self, path: str, **more: Any) -> str | None:
        """The HTML of a path; None where there is no such page.

        Args:
            more: `query` of a search; `verdict` and `code` of an answer; for a live app.
        """
        name = path.removesuffix(".html")
        part, _, rest = name.partition("/")
        if not path.endswith(".html"):
            return None
        if part == "row" and rest in pages():
            return self._row(pages()[rest], path)
        if part == "evidence" and rest.removesuffix("/page") in evidence() and rest.endswith("/page"):
            study = rest.removesuffix("/page")
            text = evidence()[study]
            used = [p for p in pages().values() if p.evidence == study]
            body = markdown.render(text.partition("\n")[2], lambda to: self._link(to, f"docs/evidence/{study}", path))
            return self._render("evidence.html", path, _title(text), body=body, used=used)
        if part == "exercise" and rest in exercises():
            task = exercises()[rest]
            verdict: Verdict | None = more.get("verdict")
            code = more.get("code") or task.scaffold.lstrip()
            return self._render("exercise.html", path, task.title, task=task, verdict=verdict, code=code)
        if part == "question" and rest in questions():
            q, told = questions()[rest], more.get("told", "")
            return self._render("question.html", path, q.ask, q=q, told=told, forms=FORMS)
        if part in ("path", "area") and (steps := self._steps(part, rest)):
            return self._render("path.html", path, steps[0], text=steps[1], steps=steps[2])
        if part == "chapter" and rest in chapters():
            found_tables = chapters()[rest]
            body = chapter.render(rest, lambda to: to if to.startswith("https://") else f"{_root(path)}{to}.html")
            rows = {row.entry.id for table in found_tables for row in table.rows}
            practice = {
                "explorables": [one for one in explorables().values() if rows & set(one.rows)],
                "tasks": [one for one in exercises().values() if rows & set(one.rows)],
                "asked": [one for one in questions().values() if rows & set(one.rows)],
            }
            title = found_tables[0].chapter
            return self._render("chapter.html", path, title, tables=found_tables, body=body, **practice)
        if part == "explore" and rest in explorables():
            one = explorables()[rest]
            return self._render("explore.html", path, one.title, one=one)
        if part == "demo" and rest in demos():
            return self._demo(demos()[rest], path, **more)
        if part == "kind" and (found := [p for p in pages().values() if p.kind == rest]):
            return self._render("kind.html", path, f"{rest}: {len(found)} entries", kind=rest, found=found)
        return self._list(name, path, **more)

    def _list(self, name: str, path: str, **more: Any) -> str | None:
        if name == "index":
            kinds = Counter(page.kind for page in pages().values())
            verdicts = Counter(one["verdict"] for one in catalogue.evidence()["verdicts"].values())
            counts = {"questions": len(questions()), "exercises": len(exercises()), "demos": len(demos()),
                      "explorables": len(explorables())}  # fmt: skip
            values = {
                "counts": counts,
                "kinds": kinds,
                "verdicts": dict(verdicts.most_common()),
                "chapters": self._map(),
                "today": self._today(),
            }
            return self._render("index.html", path, "llmanac: the guide", **values)
        if name == "search":
            query = str(more.get("query", ""))[:200]
            found = search(query) if query else index()
            return self._render("search.html", path, "Search", query=query, found=found)
        if name == "exercises":
            return self._render("exercises.html", path, "Exercises", tasks=list(exercises().values()))
        if name == "paths":
            return self._render("paths.html", path, "Paths", found=paths.load(), areas=paths.areas())
        if name == "mock" and self.token:
            return self._mock(path, **more)
        if name == "placement" and self.token:
            return self._render("placement.html", path, "A test of ten minutes", asked=planning.placement())
        if name == "plan" and self.progress is not None:
            reviews, day = self.progress.reviews(), self.progress.interview()
            days = planning.plan(reviews, day, date.today()) if day else []
            known = sorted(planning.strengths(reviews).items(), key=lambda i: i[1])
            return self._render("plan.html", path, "The days until an interview", interview=day, days=days,
                                strengths=known)  # fmt: skip
        if name == "explorables":
            return self._render("explorables.html", path, "Explorables", found=explorables().values())
        if name == "demos":
            return self._render("demos.html", path, "Demos", demos=list(demos().values()))
        if name == "questions":
            found_questions = list(questions().values())
            return self._render("questions.html", path, "Questions", asked=found_questions)
        return None

    def _map(self) -> list[dict[str, Any]]:
        """The chapters: what each teaches, and how many of its questions were answered."""
        done = set() if self.progress is None else {review.item for review in self.progress.reviews()}
        found = []
        for name, tables in chapters().items():
            rows = {row.entry.id for table in tables for row in table.rows}
            asked = [q.name for q in questions().values() if rows & set(q.rows)]
            known = sum(f"question/{q}" in done for q in asked)
            found.append({"name": name, "title": tables[0].chapter, "aim": chapter.aim(name), "rows": len(rows),
                          "asked": len(asked), "known": known})  # fmt: skip
        return found

    def _steps(self, part: str, name: str) -> tuple[str, str, list[tuple[Page, str]]] | None:
        """Title, text and the pages of a learning path, each with why it comes there, or of an area."""
        if part == "path":
            found = next((p for p in paths.load() if p.name == name), None)
            if found is None:
                return None
            return found.title, found.text, [(pages()[step.row], step.why) for step in found.steps]
        area = next((a for a in paths.areas() if a.name == name), None)
        return None if area is None else (area.title, area.text, [(pages()[row], "") for row in area.rows])

    def _mock(self, path: str, **more: Any) -> str:
        """A mock interview: five questions, those of one that could not be graded, or what to study after it."""
        params: dict[str, str] = more.get("params", {})
        graded: list[mock.Graded] | None = more.get("graded")
        chosen = {name: params.get(name, "") for name in ("role", "level")}
        role, level = (chosen[n] if chosen[n] in known else None for n, known in (("role", ROLES), ("level", LEVELS)))
        asked: list[InterviewQuestion] = more.get("asked", [])
        if self.progress is not None and params and graded is None:
            due, now = self.progress.due(), datetime.now(UTC)
            names = {item.partition("/")[2]: at for item, at in due.items() if item.startswith("question/")}
            ready = [name for name, at in names.items() if at <= now]
            later, seed = names.keys() - set(ready), int(now.timestamp()) // 600
            every = list(questions().values())
            asked = mock.choose(every, count=ASKED, seed=seed, role=role, level=level, due=ready, later=later)
        studies = None if graded is None else mock.study(graded)
        return self._render("mock.html", path, "A mock interview", asked=asked, graded=graded or [], studies=studies,
                            roles=ROLES, levels=LEVELS, chosen=chosen, grader=self.grader,
                            given=more.get("given", {}), error=more.get("error", ""))  # fmt: skip

    def _today(self) -> dict[str, Any]:
        """What the first page says of the reader's own work."""
        if self.progress is None:
            return {}
        reviews, now, today = self.progress.reviews(), datetime.now(UTC), date.today()
        day = self.progress.interview()
        new = planning.plan(reviews, day, today)[:1] if day else []
        due = sorted(self.progress.due().items(), key=lambda i: i[1])
        return {
            "ready": [(item, at) for item, at in due if at <= now and planning.chapter_of(item)],
            "later": [(item, at) for item, at in due if at > now and planning.chapter_of(item)],
            "weakest": planning.weakest(reviews),
            "exercise": planning.next_exercise(reviews),
            "interview": day,
            "new": [item for one in new for item in one.items],
            "streak": self.progress.streak(today),
        }

    def _demo(self, demo: Demo, path: str, **more: Any) -> str:
        """The form with what was typed, and its result; without an app the result of what the form begins with."""
        given: dict[str, str] = more.get("given") or more.get("params") or {}
        shown = [page for page in pages().values() if demo.shows(page.entry.id, page.entry.method)]
        if demo.lacks:
            return self._render("demo.html", path, demo.title, demo=demo, parts=None, error=demo.lacks, shown=shown)
        parts = demo.run({}, self.models, EXPORT_SECONDS) if not self.token else more.get("parts")
        held = self.models.held if demo.needs_model and parts is not None else None
        values = {field.name: given.get(field.name, field.value) for field in demo.fields}
        return self._render("demo.html", path, demo.title, demo=demo, parts=parts, held=held, values=values,
                            error=more.get("error", ""), shown=shown)  # fmt: skip

    def _row(self, page: Page, path: str) -> str:
        body = markdown.render(page.explanation, lambda to: None, level=2)
        parts = [part for part in PARTS if part not in page.lacks]
        ids = (page.entry.id, page.entry.method)
        found = [
            (demo, demo.preset(*ids) if self.token else "")
            for demo in demos().values()
            if demo.shows(*ids) and not demo.lacks
        ]
        alive = [one for one in explorables().values() if page.entry.id in one.rows]
        told, order = about(page.entry.id), list(pages())
        at, name = order.index(page.entry.id), chapter.drawn_for().get(page.entry.id)
        near = [pages()[order[n]].entry for n in (at - 1, at + 1) if 0 <= n < len(order)]
        of = next((key for key, tables in chapters().items() for t in tables for row in t.rows if row in told), "")
        return self._render(
            "row.html", path, page.entry.title, page=page, body=body, parts=parts, demos=found, alive=alive,
            told=told, near=near, figure=chapter.drawing(name) if name else "",
            chapter=of and chapters()[of][0].chapter, chapter_name=of,
            choose=chapter.choices().get(page.entry.id, ""), found=chapter.parts(page.entry.id),
        )  # fmt: skip

    def _link(self, to: str, base: str, path: str) -> str | None:
        """A link of a page of docs as one of this site's; None for what is not on it."""
        if to.startswith(("https://", "http://")):
            return to
        place = posixpath.normpath(posixpath.join(base, to.partition("#")[0]))
        own = place.removeprefix("docs/")
        if place.startswith("docs/evidence/") and place.endswith((".svg", "/page.md")) and (
            RESULTS / own.removeprefix("evidence/")
        ).is_file():  # fmt: skip
            return _root(path) + own.replace(".md", ".html")
        return None

    def _render(self, template: str, path: str, title: str, **values: Any) -> str:
        common = {
            "root": _root(path),
            "title": title,
            "token": self.token,
            "path": path,
            "statuses": catalogue.STATUSES,
        }
        return self._templates.get_template(template).render(**common, **values)

    def export(self, folder: str | Path) -> int:
        """Write every page, figure and asset into a new folder, complete or not at all; returns how many files.

        Raises:
            SpecError: the folder exists.
        """
        if Path(folder).exists():
            raise SpecError(f"--export: {folder} exists; give the name of a new folder")
        written = 0
        with files.atomic_folder(folder) as made, progress("pages", len(self.paths()), "pages") as shown:
            for path in self.paths():
                text = self.page(path)
                assert text is not None
                written += _write(made / path, text.encode())
                shown.advance()
            for name, file in ASSETS.items():
                written += _write(made / name, file.read_bytes())
            for study in evidence():
                for figure in sorted((RESULTS / study).glob("*.svg")):
                    written += _write(made / "evidence" / study / figure.name, figure.read_bytes())
        return written


def _write(path: Path, data: bytes) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return 1


def _root(path: str) -> str:
    return "../" * path.count("/")


def _said(text: str) -> Markup:
    """A line of a TOML file with its `code` and the papers that it names as links."""
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"arXiv:(\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv:\1</a>', coded))


def _title(text: str) -> str:
    return text.partition("\n")[0].lstrip("# ").replace("`", "") or "Evidence"
