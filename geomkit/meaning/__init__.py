"""What vectors mean: lenses, decoding, sparse features, factorisation, lookup, interpretability; imported by module."""
