"""Datasets: phantom, public layouts, datalists, and checks of what was read. Import the module you need."""
