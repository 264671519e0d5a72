"""The bundled Postgres server: its binaries, its folder and a life cycle that survives `kill -9` at any point.

Read `server.py` first: `EmbeddedServer` is the only entry, and counts the users of a server. What it orchestrates:

- `place.py`: which folder, who owns it, what lies where in it;
- `data.py`: the data directory, made all at once or not at all;
- `cluster.py`: the server on it: start, proof that it answers, stop;
- `postmaster.py`: what the server's pid file says, and why that is never proof;
- `locks.py`: the locks that everything rests on, since the kernel drops them when a process dies;
- `workers.py`: the lock that proves a worker alive or dead;
- `account.py`: the operating-system user of the server, another one when we are root;
- `binaries.py`: the programs of the extra `embedded`;
- `address.py`: how to connect.
"""
