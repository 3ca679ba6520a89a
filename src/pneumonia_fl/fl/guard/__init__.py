"""Judge every message between NVFlare's processes by the connection that it came over, before anything reads it.

protocol        who may say what to whom: one table, the same in every process
arrivals        a message as it arrived, and the place in NVFlare where it is judged
crowd           how much one participant may take of what all need: connections, and streams that have not ended
listener        the internal listener: a handshake that cannot be kept waiting, and accounts of this machine
shell           commands to a site: the remote shell, and refusals in the audit log
site_failures   one site's failure is that site's alone
components      what a server and a site put in front of their processes
"""
