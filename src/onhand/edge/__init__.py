"""The gRPC edge: a thin shell around handlers that know no transport."""
