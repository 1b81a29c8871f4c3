"""Backends that each break one promise, to prove that the contract notices.

Each module says in `FAILS` which tests must fail, and no others.
"""
