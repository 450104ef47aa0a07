"""Layouts of SAEs on disk and in memory: each file reads one library's, and the registry says in which order."""
