"""How models are trained, branched and fitted: the engine, the data, the laws."""
