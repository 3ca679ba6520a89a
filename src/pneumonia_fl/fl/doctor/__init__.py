"""`pneumonia-fl doctor`: what is wrong with this machine, this kit, the way to the server, and what to do about it."""
