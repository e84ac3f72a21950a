"""The Container Network Interface, 1.1 down to 0.3.0: lists, chains, results, errors, and running a type in or out of process.

A plain library: it knows no registry. https://www.cni.dev/docs/spec/
"""
