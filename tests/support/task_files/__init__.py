"""Small labeled files for every task, in a module per task, for the tests of all tasks."""
