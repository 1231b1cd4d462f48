"""Rust crates inside a sandbox: reading, laying out, preparing."""
