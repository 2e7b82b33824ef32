"""Machines other than this one: compilers for them, an emulated one, and the way to a real one."""
