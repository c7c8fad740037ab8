"""Mutation evidence: insert faults into the product and report which tests detect them."""
