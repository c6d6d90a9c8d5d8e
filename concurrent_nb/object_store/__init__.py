"""Large buffers in shared memory, so that on one host they are copied once and never travel.

    heap        which place a buffer gets, and which places are free (pure)
    segments    pieces of shared memory, and how another process opens them: the only part that asks the system
    store       the owner's side: lays buffers down, recognises what it has, takes places back
    shelf       the reader's side: keeps the segments of others open, reads and maps slices

A segment has no name in the file system and belongs to nobody: the system frees it when the last process that has it
open or mapped is gone, however that process ended. So nothing is ever left behind.
"""
