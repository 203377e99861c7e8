"""The debug log of Calico's eBPF programs: lines, packets, stories, summaries. Opens no socket.

``reading.read`` gives tables of lines out of a file, ``packets`` makes packets of them,
``stories`` follows one packet over programs and devices, ``summaries`` counts. What the log says
about time is distorted by the logging itself: compare within one log, never with another.
"""
