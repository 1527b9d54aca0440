"""The truth in PostgreSQL: tables, postings, queries, invariants."""
