"""Tests of cpool; the tree mirrors the package."""
