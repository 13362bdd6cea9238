"""What every other package stands on: specs, the registry, the catalogue, errors, files, randomness, devices."""
