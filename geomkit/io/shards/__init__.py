"""A matrix whose rows lie in many files, on a local disk or anywhere that fsspec reaches.

`shards.open_shards` lists what an address stands for (`listing`, `locations`) and opens each file as a `shard`: rows in
pieces, each of which is read or decoded as one. `numpy_`, `parquet`, `arrow`, `zarr_` and `text` open a format each;
`spool` takes blocks from an iterator; `piece_cache` keeps decoded pieces for the next read.
"""
