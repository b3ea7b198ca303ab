"""Pages about a user's vectors: one HTML file each, which opens from disk with everything it needs inside.

`page` says what a page consists of and writes it; `charts` draws; `audit` and `comparison` are the two kinds of pages;
`cells` formats their numbers. `style` is how figures look.
"""
