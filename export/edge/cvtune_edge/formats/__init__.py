"""One module a file format: what its header says, and what OpenCV has to be told to read it right."""
