"""Runtime: shared libraries, threads, prefetching, progress bars."""
