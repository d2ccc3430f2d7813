"""Question in, cited answer out. Read answer.py first."""

import os

# Threads that wait for each other look for a few microseconds before they sleep. Spinning on, as is usual, made an answer on two busy
# cores take 35 s instead of 12; sleeping at once doubled the time of a written word (13.7 ms instead of 6.2, python -m rag models bench).
# "active" is for where the process has more of these threads than cores, as soon as an embedder is loaded beside a language model: GNU's
# library then looks for no more than a tenth of that time otherwise, and eight answers were written at 112 words a second instead of 137.
# It is read when torch or llama.cpp is loaded, so it stands before both.
WAITING = {"GOMP_SPINCOUNT": "2000", "OMP_WAIT_POLICY": "active"}
# Of the code that torch's bf16 makes for each shape of a batch, torch and oneDNN below it keep 1024 pieces each otherwise, a quarter of a
# MB a piece: 140 MB after 120 questions, and more with each. A batch needs far fewer again, layer by layer; 32 are as fast.
SHAPES = {"LRU_CACHE_CAPACITY": "32", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32"}
for _name, _value in {**WAITING, **SHAPES}.items():
    os.environ.setdefault(_name, _value)
