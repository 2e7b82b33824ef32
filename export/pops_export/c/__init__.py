"""Dependency-free C99 from a student: int8 and float32."""
