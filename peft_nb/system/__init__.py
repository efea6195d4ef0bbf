"""The machine and the process: what shows the output, cores, memory, devices, files."""
