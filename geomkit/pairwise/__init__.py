"""One pass over all pairs of rows, without ever holding the n x n matrix.

Most statistics here are functions of the n (n - 1) / 2 cosines or distances between rows. The matrix of them would
not fit into memory, so it is made in tiles that fit into cache: a tile is the product of two blocks of rows, it is fed
to reducers (counts, extremes, candidates for neighbours), and it is overwritten by the next one. Reducers merge
exactly and in any order, so threads, devices, panels and machines can share the tiles.

    x ─ core.matrix ─ normalization or scores ─ tiles ─ sweep ─┬─ reducers     counts, extremes, pairs above a value
                     (rows that are ready      (one product    └─ candidates ─ search ─ certified neighbours
                      for one product)          of two blocks)

- `normalization`: rows of length 1, centred rows. `scores`: rows such that one product gives cosines, inner products
  or squared distances, with a bound on its rounding error. `queries`: the other factors, where queries look for rows.
- `tiles` says what a tile is and in which order tiles come. `sweep` feeds them to the reducers: in threads, on devices
  (`device_sweep`), or panel by panel where rows exceed the memory (`panels`).
- `reducers` are what a sweep leaves behind; `candidates` keeps the best k' of each row. `search` has `rescoring` rank
  them in float64, certifies the k best by the error bounds, and redoes the rows that these do not settle, so that
  neighbours are exact: for rows among themselves and for queries.

Start reading with `sweep.sweep`.
"""
