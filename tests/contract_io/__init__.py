"""What every I/O manager owes: one suite that runs on all of them."""
