"""How each family of sources is named, coloured and marked, in every figure."""

__all__ = ["FAMILIES"]

FAMILIES = {
    "random": ("Random: sphere, Gaussian, cube", "#7f7f7f", "o"),
    "tfidf": ("TF-IDF", "#E69F00", "s"),
    "word2vec": ("Word2Vec and GloVe", "#009E73", "^"),
    "llm": ("Language models", "#0072B2", "D"),
}
"""Title, colour and marker of each family."""
