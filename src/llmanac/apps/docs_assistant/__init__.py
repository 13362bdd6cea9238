"""The documentation assistant of the quickstart: it answers questions by quoting the docstrings of Python.

docs/assistant.md says how it works and how good it is. It shows how an application is written on the library: `app.py`
is what a run, the report and the server call; everything else is the application's own.
"""

CARD = {"title": "questions about Python, answered by quoting its documentation", "aliases": ["docstrings"]}
