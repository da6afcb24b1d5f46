"""Training: one expert (`fit`), what mixes them (`routers`), folds (`crossval`), whole runs (`run`)."""
