"""What the OCI specifications name and describe: references, manifests, platforms, chains, runtime specs."""
