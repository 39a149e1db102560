"""The methods beside ROPD, one file each, and the registry that names them all."""
