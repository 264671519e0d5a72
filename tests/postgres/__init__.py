"""What only a real server can show: SQL, migrations, locks, the embedded life cycle."""
