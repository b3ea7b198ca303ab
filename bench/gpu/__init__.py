"""Timings on a GPU, and what can be known without one: ahead-of-time compilation and a roofline of each kernel."""
