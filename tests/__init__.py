"""The tests, by how much of the system they need; support/ holds what they share."""
