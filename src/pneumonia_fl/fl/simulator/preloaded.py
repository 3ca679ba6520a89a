"""What is done by being imported: a fork server can do nothing else, and this once for all that it forks.

NVFlare goes through its own modules for what turns objects into bytes; each site would need 12 MB of its own for that.
"""

from nvflare.private.fed.utils.fed_utils import nvflare_fobs_initialize

nvflare_fobs_initialize()
