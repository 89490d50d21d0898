"""The program llama-imatrix, as a wheel installs it. There is no Python interface: run `llama-imatrix`."""
