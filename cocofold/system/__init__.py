"""What every part of the program needs of the machine: errors, files, memory, signals, processes, progress."""
