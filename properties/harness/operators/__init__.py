"""The laws of every operator: routes to one gradient, comparison, tables of reasons."""
