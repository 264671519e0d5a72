"""The command line in processes of its own: exit codes, streams, interrupts, terminals, real stores."""
