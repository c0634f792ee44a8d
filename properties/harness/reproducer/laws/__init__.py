"""Templates of the laws, one module for each file of laws."""
