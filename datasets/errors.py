"""Errors of the dataset tools: each says what failed and which command puts it right."""

from __future__ import annotations


class DatasetError(Exception):
    """Any failure to make, find or trust a dataset."""


class UnknownDataset(DatasetError):  # noqa: N818
    """No set has the given name."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"No dataset is called {name!r}; known: {', '.join(known)}.")
        self.name = name


class DatasetMissing(DatasetError):  # noqa: N818
    """The set exists but has not been prepared in this cache."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(
            f"Dataset {name!r} is not prepared in {folder}. Run: python -m datasets prepare {name}"
        )
        self.name = name


class DatasetCorrupt(DatasetError):  # noqa: N818
    """Files on disk disagree with the manifest written beside them."""

    def __init__(self, name: str, problems: list[str]) -> None:
        super().__init__(
            f"Dataset {name!r} is damaged: {'; '.join(problems)}. "
            f"Run: python -m datasets prepare --force {name}"
        )
        self.name = name
        self.problems = problems


class SourceMissing(DatasetError):  # noqa: N818
    """A package that the set is made from, or made with, cannot be found or fetched."""

    def __init__(self, source: str, remedy: str) -> None:
        super().__init__(f"{source} is missing. Run: {remedy}")
        self.source = source
        self.remedy = remedy


class SourceChanged(DatasetError):  # noqa: N818
    """A source file was found, but its content is not what the recipe was written for."""

    def __init__(self, source: str, problem: str) -> None:
        super().__init__(f"{source}: {problem}.")
        self.source = source
