"""Tenants and filters, call by call."""
