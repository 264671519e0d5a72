"""The shape of the code base: budgets, the lock, the built wheel."""
