"""Judge every message between NVFlare's processes by the connection that it came over, before anything reads it.

protocol    who may say what to whom: one table, the same in every process
arrivals    a message as it arrived, and the place in NVFlare where it is judged
listener    the internal listener: a handshake that cannot be kept waiting, and accounts of this machine
crowd       the server's listener: no certificate takes all of its connections
components  what a server, a site and a site's job put in front of themselves
"""
