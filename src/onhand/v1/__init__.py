"""The API's messages and stubs, generated from protos/onhand/v1 by `make protos`."""
