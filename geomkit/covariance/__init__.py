"""Moments of all pairs without the pairs: sums over rows that give means and variances of distances in closed form.

The mean cosine, the variance of squared distances or the spectrum need no pairs: Σ y, Σ |y|², Σ |y|² y and Σ y yᵀ
suffice, and one pass over the rows adds them up in O(n d min(n, d)).

    x ─ core.matrix ─ accumulate ─ batches ─ scatter       n, Σ y, Σ y yᵀ, …: mergeable, about a pivot
                          │
                          ├─ influence, projections        a second pass: standard errors, directions
                          └─ gram                          rows so wide that YYᵀ is the smaller matrix

- `scatter` holds the sums, merges two of them, and reads the moments of distances off them. `batches` adds a block of
  rows to a pair of scatters, one of the raw rows and one of the normalized rows. `accumulate` adds all rows, in threads
  or wherever the rows are measured, and refuses or drops invalid rows.

Start reading with `scatter`.
"""
