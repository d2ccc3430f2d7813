"""Question in, cited answer out. Read answer.py first."""

import os

# Threads that wait for each other look for a few microseconds before they sleep. Spinning on, as is usual, made an answer on two busy
# cores take 35 s instead of 12; sleeping at once doubled the time of a written word (13.7 ms instead of 6.2, python -m rag models bench).
# It is read when torch or llama.cpp is loaded, so it stands before both.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
