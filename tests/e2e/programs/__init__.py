"""Programs that tests run in processes of their own, to kill, stop and interrupt them."""
