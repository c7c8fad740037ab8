"""The network: embeddings, encoder and heads (Devlin et al. 2018)."""
