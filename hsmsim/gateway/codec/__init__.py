"""Requests, responses and errors as bytes, driven by botocore's service models: a module for each protocol."""
