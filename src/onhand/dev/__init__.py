"""Embedded PostgreSQL and Valkey, and sample data: for development, tests and simulations, never for production."""
