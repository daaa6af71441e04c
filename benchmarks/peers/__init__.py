"""What `benchmarks.compare` is made of.

Run by cvtune's own environment: sides (the same files for every tool), deal, rows (what was measured), runs (a tool in
a process of its own), load (what else the machine did), environment (where the peers live), table and curve.
Run by the peers' environment, which has no cvtune: task, run_fastai, run_vyntri, run_plain.
"""
