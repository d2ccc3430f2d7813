"""Question in, cited answer out. Read answer.py first."""

import os

# Threads that wait for each other sleep instead of spinning. Measured on two busy cores: an answer took 12 s instead of 35 and a
# third of the processor time. It is read when torch or llama.cpp is loaded, so it stands before both.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
