"""What survives: the contract of a store, and its implementations."""
