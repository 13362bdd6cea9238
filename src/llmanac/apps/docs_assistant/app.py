"""The application as a run, the report and the server see it (`recipes/application.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmanac.apps.docs_assistant.assistant import Assistant
from llmanac.apps.docs_assistant.documentation import Documentation
from llmanac.apps.docs_assistant.prompt import SPECIAL
from llmanac.apps.docs_assistant.report import report
from llmanac.generate.engine import Engine
from llmanac.generate.load import ASSISTANT, load_engine
from llmanac.recipes.application import Application, ReportPart


class DocsAssistant(Application):
    """Rows from docstrings, an evaluation on held-out modules, and an assistant that quotes."""

    special_tokens = SPECIAL

    def pairs(self, run: Any) -> Documentation:
        return Documentation(run)

    def report(self, results: Mapping[str, Any]) -> ReportPart | None:
        return report(results) if "answers" in results else None

    def assistant(self, folder: Path, engine: Engine) -> Assistant:
        reader = load_engine(folder / "model", device=str(getattr(engine.model, "device", "auto")))
        return Assistant.load(folder / ASSISTANT, reader, reader.tokenizer)


APPLICATION = DocsAssistant()
