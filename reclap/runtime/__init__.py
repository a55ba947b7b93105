"""What runs beneath everything else: shared libraries, threads, prefetching, progress bars."""
