"""Damage as a disk does it."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq


def damage(path: Path) -> None:
    """Flips bits of the first page, so that the footer stays whole and the rows cannot be read."""
    content = bytearray(path.read_bytes())
    page = pq.ParquetFile(path).metadata.row_group(0).column(0)
    for place in range(page.file_offset or 4, (page.file_offset or 4) + page.total_compressed_size):
        content[place] ^= 255
    path.write_bytes(content)
