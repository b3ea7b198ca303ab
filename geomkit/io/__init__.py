"""Vectors in files: `read` opens one file (`files`), `open_shards` many that together are one matrix (`shards`)."""

from geomkit.io.files import FORMATS, Format, Opened, read
from geomkit.io.shards.shards import Shards, open_shards

__all__ = ["FORMATS", "Format", "Opened", "Shards", "open_shards", "read"]
