"""What vectors mean: instruments that read meaning out of them, one subject a module.

- Language models from within: `activations` (states of every layer), `lens` (what a model would say at each layer),
  `sae` (sparse autoencoders), `causal` (the parts of a model that these read through).
- Vectors and words: `decode` (which token a vector is of), `cooccurrence`, `factorise` and `npmi` (word vectors from
  counts), `coherence` (do the dimensions mean anything).
- Vectors and categories: `separability` (do categories separate linearly), `directions`, `quantise` (in how few bytes).
"""
