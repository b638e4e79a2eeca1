"""Drawing and reading: figures, notebooks and reports over points and laws."""
