"""What a site answers to a job that its policy does not allow, in words.

NVFlare's own answer is "BYOC not permitted"; the rule in `local/authorization.json` stays in force behind this one.
"""

from pathlib import Path
from typing import Any

from nvflare.apis.app_validation import AppValidator
from nvflare.apis.fl_constant import WorkspaceConstants


class SiteGate(AppValidator):
    """Looks at a job before the site takes it; named as `app_validator` in the site's `local/resources.json`."""

    def __init__(self, policy: str, shipped_code: bool) -> None:
        super().__init__()
        self.policy = policy
        self.shipped_code = shipped_code

    def validate(self, app_folder: str) -> tuple[str, dict[str, Any]]:
        """Return the refusal ("" for none) and what is known about the job (nothing)."""
        ships = (Path(app_folder) / WorkspaceConstants.CUSTOM_FOLDER_NAME).exists()
        return (self._refusal() if ships and not self.shipped_code else "", {})

    def _refusal(self) -> str:
        return (
            f"site policy '{self.policy}' refuses a job that ships code; submit it without --ship-code, or ask the "
            f"site's IT for the policy 'relaxed'"
        )
