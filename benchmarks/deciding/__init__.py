"""The benchmark that decides: every method and two outside tools, one table at a time, with the same means for all."""
