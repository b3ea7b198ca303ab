"""What an article claims of embeddings: how each claim is measured, or read from the table of a study."""
