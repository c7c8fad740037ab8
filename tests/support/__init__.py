"""What the tests share: data, processes, servers and their peers."""
