"""Sparse autoencoders: a layer's states as a few active features out of thousands (Gao et al. 2024).

`autoencoder` is the model; `training` trains it with the steps of `learner`; `quality` says how well it rebuilds
states, `splicing` what the model loses by it, and `features` what each feature is about.
"""
