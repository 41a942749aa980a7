"""Puts this folder on the import path: tests share the modules beside this file."""
