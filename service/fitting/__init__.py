"""Fits of any size: what is asked for, what is kept of the rows that were read, where it is kept meanwhile, and on which machines."""
