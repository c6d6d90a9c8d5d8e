"""Large buffers in shared memory, so that on one host they are copied once and never travel.

    allocator         assigns blocks to buffers and keeps the free ones (pure)
    segments          creates segments and opens those of other processes: the only part that calls the system
    store             the owner's side: stores buffers, recognises stored ones, frees blocks
    segment_reader    the reader's side: keeps segments of other processes open, reads and maps slices
    mapping           maps files copy-on-write without keeping a descriptor, and restores what was written

A segment has no name in the file system. The system frees it when the last process that has it open or mapped ends, in
whatever way, so nothing is left behind.
"""
