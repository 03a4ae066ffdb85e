"""Parts of the ledger: where it is kept, what it keeps on this machine, its history, its proofs, and its commands.

shelves     folders and objects: a local folder, or any fsspec store
cache       full graphs on this machine, verified
history     what served when, what was taken back
chain       which manifest follows which, and whether all is as it was written
retention   what may go
explain     why, for a person
compare     two versions side by side
cli         `tta-agent versions ...`
"""
