"""How one operation runs on one chip: a folder per operation, with its meaning in plain jnp and a file per backend."""
