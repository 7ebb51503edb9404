"""The csv and Parquet files of a data set, read block by block, with errors that say what is wrong with which file.

A gzip file holds a checksum of its contents, which is compared while it is read, so a truncated or changed file is
never mistaken for a complete one.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

_BLOCK_BYTES = 1 << 24


class DataSetError(OSError):
    """A data set cannot be obtained, or its files are missing or damaged. The message says what to do."""


@dataclass(frozen=True)
class Tables:
    """The folder with the csv and Parquet files of a data set.

    Parameters
    ----------
    title : str
        Name of the data set, for messages.
    folder : pathlib.Path
        Where the files are.
    remedy : str
        What to do about a missing or damaged file, for messages.
    n_rows : mapping of str to int
        The numbers of rows that are published, by file.
    """

    title: str
    folder: Path
    remedy: str
    n_rows: Mapping[str, int] = field(default_factory=dict)

    def read(self, name: str, schema: pa.Schema) -> pa.Table:
        """Read some columns of a file.

        Parameters
        ----------
        name : str
            The file: csv, which may be compressed (``"train.csv.gz"``), or Parquet (``"train.parquet"``).
        schema : pyarrow.Schema
            The columns to read and their types. Missing values are an error in a column that is not nullable.

        Returns
        -------
        pyarrow.Table of shape (n_rows, len(schema))
            The columns, in the order of `schema`.

        Raises
        ------
        OSError
            If the file is missing or is not such a table. The message gives the reason.
        """
        table = pa.Table.from_batches(self.blocks(name, schema), schema)
        published = self.n_rows.get(name, len(table))
        if len(table) != published:
            raise self.problem(
                name, f"has {len(table):,} rows, published {published:,}: it is truncated or was changed"
            )
        return table

    def blocks(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Read a file as `read` does, one block of rows at a time."""
        self._check_header(name, schema)
        n_rows = 0
        parse = self._parse_parquet if _is_parquet(name) else self._parse
        for block in parse(name, schema):
            self._check_nulls(name, schema, block)
            n_rows += block.num_rows
            yield block.cast(schema)
        if n_rows == 0:
            raise self.problem(name, "has no rows: it is truncated or was changed")

    def check(self, name: str, schema: pa.Schema) -> None:
        """Check the header of a file, and that it can be decompressed to its end; raise as `read` does."""
        self._check_header(name, schema)
        try:
            with pa.input_stream(self.folder / name) as stream:
                while stream.read(_BLOCK_BYTES):
                    pass
        except OSError as error:
            raise self.problem(name, f"cannot be decompressed to its end ({error})") from error

    def problem(self, name: str, text: str) -> DataSetError:
        """Return the error that says what is wrong with a file and what to do."""
        return DataSetError(f"{self.title}: {self.folder / name} {text}.\n{self.remedy}")

    def _parse(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        convert = pyarrow.csv.ConvertOptions(
            column_types=schema, include_columns=schema.names, strings_can_be_null=True, quoted_strings_can_be_null=True
        )
        parse = pyarrow.csv.ParseOptions(newlines_in_values=True)
        read = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES)
        try:
            with pa.input_stream(self.folder / name) as stream:
                yield from pyarrow.csv.open_csv(stream, read, parse, convert)
        except (pa.ArrowInvalid, OSError) as error:
            raise self.problem(name, f"cannot be read to its end: it is truncated or was changed ({error})") from error

    def _parse_parquet(self, name: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        # A cast fails on null where the schema has none; `blocks` says so in its own words.
        nullable = pa.schema([column.with_nullable(True) for column in schema])
        try:
            with pq.ParquetFile(self.folder / name) as file:
                for block in file.iter_batches(columns=schema.names):
                    yield block.select(schema.names).cast(nullable)
        except (pa.ArrowException, OSError) as error:
            raise self.problem(name, f"cannot be read to its end: it is truncated or was changed ({error})") from error

    def _check_header(self, name: str, schema: pa.Schema) -> None:
        path = self.folder / name
        if not path.is_file():
            raise self.problem(name, "is missing")
        if _is_parquet(name):
            columns = self._parquet_columns(name)
            seen = f"its columns are {columns}"
        else:
            first_line = self._first_line(name)
            columns = next(csv.reader([first_line.replace("\0", "?")]), [])
            seen = f"its first line is {first_line[:200]!r}"
        if missing := [column for column in schema.names if column not in columns]:
            raise self.problem(
                name,
                f"has no column {', '.join(map(repr, missing))}: {seen}; the file was renamed, re-encoded or changed, "
                "or is of another version",
            )
        if repeated := [column for column in schema.names if columns.count(column) > 1]:
            raise self.problem(name, f"has the column {repeated[0]!r} twice: {seen}")

    def _parquet_columns(self, name: str) -> list[str]:
        try:
            return list(pq.read_schema(self.folder / name).names)
        except (pa.ArrowException, OSError) as error:
            raise self.problem(name, f"is no Parquet file: it is truncated or was changed ({error})") from error

    def _first_line(self, name: str) -> str:
        try:
            with pa.input_stream(self.folder / name) as stream:
                start: bytes = stream.read(1 << 12)
        except OSError as error:
            raise self.problem(name, f"cannot be decompressed: truncated, changed or unpacked ({error})") from error
        return start.replace(b"\r", b"\n").split(b"\n")[0].decode("utf-8-sig", "replace")

    def _check_nulls(self, name: str, schema: pa.Schema, block: pa.RecordBatch) -> None:
        for column in schema:
            if not column.nullable and (n_nulls := block.column(column.name).null_count):
                raise self.problem(name, f"has no value of {column.name!r} in {n_nulls} of {block.num_rows} rows")


def _is_parquet(name: str) -> bool:
    return name.endswith(".parquet")
