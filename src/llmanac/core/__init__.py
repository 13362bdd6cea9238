"""The base of all other packages: specs, the registry, the catalogue, errors, files, randomness, devices."""
