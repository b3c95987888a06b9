"""Modules that several starters use. A project gets those that its starter imports."""
