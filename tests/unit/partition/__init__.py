"""The algebra of partitions (PART): keys, sets of them, ranges, and mappings between them."""
