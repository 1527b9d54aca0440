"""Load and truth: clients that play real baskets and crowds against a server, and check every answer. They know the API only."""
