"""Running and keeping: the store, atomic writes, the executor, its Dask engine, and jobs."""
