"""Prompt files: verl's parquet columns, how they are read, made and checked."""
