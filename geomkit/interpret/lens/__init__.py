"""Lenses: what a language model would predict if a middle layer were its last.

`logit_lens` reads a layer through the model's own last steps; `tuned_lens` translates the layer first, by an affine
map that `tuned_start` and `tuned_training` fit. `statistics` says what lenses show over many texts.
"""
