"""A dataset of the Hugging Face hub by name. Nothing is fetched before the first document is asked for.

The repository's Parquet or JSON Lines files (or its `refs/convert/parquet` copy, where it has none) are fetched one at
a time into the hub's own cache and read row by row; a file already there is not fetched again, and with
`HF_HUB_OFFLINE=1` only what is there is used.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmanac.core.errors import DataError, nearest
from llmanac.core.ranges import COUNT, within
from llmanac.data.documents import Document
from llmanac.data.quarantine import OnError, Problems
from llmanac.data.sources import SourceSpec
from llmanac.data.sources.files import Spec as Files
from llmanac.data.sources.files import documents_of
from llmanac.data.unpack import TABLES, format_of

CARD = {
    "title": "A dataset of the Hugging Face hub by name",
    "aliases": {},
    "test": "tests/contracts/test_sources.py::test_hub_dataset_is_listed_fetched_and_read",
}
CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True, kw_only=True)
class Spec(SourceSpec):
    """Which dataset, and which part of it.

    Attributes:
        dataset: `owner/name` on the hub.
        subset: a configuration's name: only files with this folder or name part are read.
        split: only files whose path names this split, where any file names one; empty reads all.
        text, group: the columns that hold the text and the group of the train/held-out split.
        revision: branch, tag or commit.
        limit: how many documents to read at most.
        on_error, quarantine, piece: as for the source `files`.
    """

    dataset: str = ""
    subset: str | None = None
    split: str = "train"
    text: str = "text"
    group: str | None = None
    revision: str = "main"
    limit: int | None = None
    on_error: OnError = "fatal"
    quarantine: str = "quarantine.jsonl"
    piece: int = 1_000_000

    ranges = within(COUNT, "limit")

    def problems(self) -> Problems:
        return Problems(self.on_error, self.quarantine)

    def documents(self, problems: Problems | None = None) -> Iterator[Document]:
        if not self.dataset:
            raise DataError("dataset: no name; give it as owner/name")
        problems = self.problems() if problems is None else problems
        revision, license, names = _listing(self)
        columns = Files(text=self.text, group=self.group, piece=self.piece, license=license)
        given = 0
        for name in choose_files(names, self.subset, self.split, self.dataset):
            path = _fetch(self.dataset, name, revision)
            for document in documents_of(path, name, columns, problems):
                meta = {**document.meta, "input": f"{self.dataset}@{revision[:12]}/{name}"}
                yield Document(f"{self.dataset}/{document.id}", document.text, document.group, meta)
                given += 1
                if given == self.limit:
                    problems.save()
                    return
        problems.save()
        if not given:
            raise DataError(f"{self.dataset}: no usable text in column {self.text!r} ({problems.total} rows set aside)")


def choose_files(names: list[str], subset: str | None, split: str, dataset: str) -> list[str]:
    """The data files to read, in order: of one format, of the subset and split asked for.

    Raises:
        DataError: the repository has no data file that can be read, or none of that subset or split.
    """
    tables = sorted(n for n in names if format_of(Path(n)) in TABLES and not _is_metadata(n))
    if not tables:
        tables = sorted(n for n in names if format_of(Path(n)) == ".txt")
    for format in (".parquet", ".jsonl", ".ndjson", ".csv", ".tsv", ".json", ".txt"):
        chosen = [n for n in tables if format_of(Path(n)) == format]
        if chosen:
            break
    else:
        raise DataError(f"{dataset}: this dataset has no Parquet, JSON Lines, CSV or text file to read")
    if subset:
        part = [n for n in chosen if subset in _words(n)]
        if not part:
            known = sorted({word for n in chosen for word in _words(n)})
            raise DataError(f"{dataset}: no file of the subset {subset!r}{nearest(subset, known)}")
        chosen = part
    elif len(tops := {Path(n).parts[0] for n in chosen if len(Path(n).parts) > 1} - {"data"}) > 1:
        raise DataError(f"{dataset}: several subsets ({', '.join(sorted(tops)[:8])}); choose one with subset=")
    if split:
        part = [n for n in chosen if split in _words(n)]
        named = sorted({w for n in chosen for w in _words(n)} & {"train", "test", "validation", "valid", "dev", "eval"})
        if not part and named:
            raise DataError(f"{dataset}: no file of the split {split!r} (it has: {', '.join(named)})")
        chosen = part or chosen
    return chosen


def _is_metadata(name: str) -> bool:
    bare = Path(name).name
    return bare.startswith(".") or bare in ("dataset_infos.json", "dataset_info.json", "croissant.json")


def _words(name: str) -> set[str]:
    """The parts of a path that can name a subset or split: `en/train-00000-of-00002.parquet` -> en, train, …"""
    parts = Path(name).parts
    return set(parts[:-1]) | set(re.split(r"[-_.]", parts[-1])) | {parts[-1].split(".")[0]}


def _listing(spec: Spec) -> tuple[str, str, list[str]]:
    """`(commit, licence, file names)` of the dataset."""
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _cached_listing(spec)
    api = huggingface_hub.HfApi()
    try:
        info = api.dataset_info(spec.dataset, revision=spec.revision)
        names = [file.rfilename for file in info.siblings or []]
        revision = info.sha or spec.revision
        if not any(format_of(Path(n)) in (*TABLES, ".txt") and not _is_metadata(n) for n in names):
            converted = api.dataset_info(spec.dataset, revision=CONVERTED)
            names, revision = [file.rfilename for file in converted.siblings or []], converted.sha or CONVERTED
    except Exception as error:
        raise _hub_error(spec.dataset, error) from None
    card: Any = info.card_data or {}
    license = card.get("license")
    return revision, license if isinstance(license, str) else ", ".join(license or []), names


def _cached_listing(spec: Spec) -> tuple[str, str, list[str]]:
    import huggingface_hub

    try:
        root = Path(
            huggingface_hub.snapshot_download(
                spec.dataset, repo_type="dataset", revision=spec.revision, local_files_only=True
            )
        )
    except Exception:
        raise DataError(
            f"{spec.dataset}: HF_HUB_OFFLINE is set and this dataset is not in the hub's cache; unset it to fetch it"
        ) from None
    return root.name, "", [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()]


def _fetch(dataset: str, name: str, revision: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(dataset, name, repo_type="dataset", revision=revision))
    except Exception as error:
        raise _hub_error(f"{dataset}/{name}", error) from None


def _hub_error(what: str, error: Exception) -> DataError:
    """The hub client's many errors as one sentence that says what to do."""
    from huggingface_hub import errors

    advice = {
        errors.GatedRepoError: "this dataset is gated; accept its terms on the hub and log in with `hf auth login`",
        errors.RevisionNotFoundError: "no such revision on the hub; check revision=",
        errors.RepositoryNotFoundError: "no such dataset on the hub, or it is private; check the name (owner/name)",
        errors.EntryNotFoundError: "no such file in the dataset",
        errors.HFValidationError: "not a hub dataset name; give it as owner/name, or local files by a path that exists",
    }
    first = (str(error).splitlines() or [type(error).__name__])[0]
    other = f"cannot reach the hub ({first}); check the network, or give local files with source `files`"
    return DataError(f"{what}: {next((said for kind, said in advice.items() if isinstance(error, kind)), other)}")
