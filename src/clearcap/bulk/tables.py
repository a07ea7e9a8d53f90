"""Photos in a column of a parquet or Arrow file, as Hugging Face's data sets keep them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clearcap.bulk.archives import opened
from clearcap.data.fetch import fetch
from clearcap.data.huggingface import IMAGE_COLUMNS, find_column
from clearcap.data.images import PhotoBytes, PhotoFile, PhotoSource, is_url
from clearcap.data.paths import has_suffix
from clearcap.errors import InputError

TABLES = (".parquet", ".arrow")
_ROWS = 32  # read at once: photos in memory


def pyarrow() -> Any:
    """The library that reads and writes parquet. Raises InputError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("parquet and Arrow files need pyarrow; pip install 'clearcap[parquet]'") from error
    return pyarrow


def count_rows(path: str) -> int:
    """Rows of a table on this machine; 1, its error's, where it cannot be read."""
    try:
        if has_suffix(path, TABLES[:1]):
            return int(pyarrow().parquet.ParquetFile(path).metadata.num_rows)
        return sum(len(batch) for batch in _arrow_batches(pyarrow(), path))
    except (InputError, OSError, ValueError):
        return 1


def table_rows(path: str, column: str | None) -> Iterator[PhotoSource]:
    """Photos of a table, row by row: bytes, ``{"bytes", "path"}`` as Hugging Face writes them, or paths.

    Args:
        path: a parquet file, or an Arrow file as ``datasets`` saves it; an address of fsspec, too.
        column: holds the photos; default is the first that is called image, img, photo ...

    Raises:
        InputError: missing, damaged, or without such a column.
    """
    arrow = pyarrow()
    row = 0
    try:
        for batch in (
            _parquet_batches(arrow, path, column)
            if has_suffix(path, TABLES[:1])
            else _column(_arrow_batches(arrow, path), path, column)
        ):
            for cell in batch:
                yield _photo(cell.as_py(), f"{path} row {row}")
                row += 1
    except (OSError, ValueError, arrow.ArrowException) as error:
        if isinstance(error, InputError):
            raise
        fault = " ".join(str(error).split())
        raise InputError(f"{path} cannot be read as a table ({fault}); fetch or write it again") from error


def _parquet_batches(arrow: Any, path: str, column: str | None) -> Iterator[Any]:
    with opened(path) as file:
        table = arrow.parquet.ParquetFile(file)
        name = find_column("image", column, IMAGE_COLUMNS, table.schema_arrow.names, path)
        for batch in table.iter_batches(batch_size=_ROWS, columns=[name]):
            yield batch.column(0)


def _arrow_batches(arrow: Any, path: str) -> Iterator[Any]:
    with opened(path) as file:
        try:
            yield from arrow.ipc.open_stream(file)
        except arrow.ArrowInvalid:  # the other of Arrow's two layouts
            file.seek(0)
            reader = arrow.ipc.open_file(file)
            for place in range(reader.num_record_batches):
                yield reader.get_batch(place)


def _column(batches: Iterator[Any], path: str, column: str | None) -> Iterator[Any]:
    for batch in batches:
        yield batch.column(find_column("image", column, IMAGE_COLUMNS, batch.schema.names, path))


def _photo(cell: Any, name: str) -> PhotoSource:
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    data = cell.get("bytes") if isinstance(cell, Mapping) else cell
    if isinstance(data, bytes):
        return PhotoBytes(data, name)
    if not isinstance(path, str) or not path:
        return PhotoBytes(b"", name)
    return _Remote(path, name) if is_url(path) else PhotoFile(Path(path))


class _Remote(PhotoSource):
    """A photo at an address that a table names."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self._name = url, name

    @property
    def name(self) -> str:
        return self._name

    def stream(self) -> Any:
        return PhotoBytes(fetch(self.url), self._name).stream()
