"""How well rewards tell chosen from rejected, by density bin, with intervals, tests and the power to see anything."""
