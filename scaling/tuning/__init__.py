"""The wind tunnel: hyper-parameters found on small models, and the rules that carry them to large ones."""
