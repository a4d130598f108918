"""The benchmarks of `./okane bench`: ratios within one run, never bare milliseconds of one machine."""
