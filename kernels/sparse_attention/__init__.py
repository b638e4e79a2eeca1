"""Block-sparse causal attention whose visible blocks are chosen per token, and ways to choose them; see README.md."""
