"""Commands to a site: NVFlare's remote shell is not there, or kept inside the kit; refusals are in the audit log.

NVFlare checks the words of `ls`, `cat`, `head`, `tail` and `grep` at the server; a site runs what arrives.
"""

import shlex
from collections.abc import Callable
from typing import Any

from nvflare.fuel.hci.proto import ReplyKeyword
from nvflare.private.admin_defs import Message, error_reply
from nvflare.private.defs import RequestHeader, SysCommandTopic
from nvflare.private.fed.client.admin import RequestProcessor
from nvflare.private.fed.server.shell_cmd import ShellCommandModule

from pneumonia_fl.fl.parent.audit_log import tell_refusal

KEYS_FOLDER = "startup"


class NoShell(RequestProcessor):
    """Of a site whose policy has no remote shell."""

    def get_topics(self) -> list[str]:
        """Return what NVFlare calls the remote shell."""
        return [SysCommandTopic.SHELL]

    def process(self, req: Message, app_ctx: object) -> Message:
        """Refuse, whoever asks."""
        return _refuse(req, "this site's policy has no remote shell; ask its IT, or use its own terminal")


class PathRules(RequestProcessor):
    """The rules of NVFlare's server for paths, at the site: relative, without `..`, text files, not the keys."""

    def __init__(self, stock: RequestProcessor) -> None:
        self._stock = stock
        specs = ShellCommandModule().get_spec().cmd_specs
        self._commands = {spec.name: spec.handler_func.__self__ for spec in specs}

    def get_topics(self) -> list[str]:
        """Return what NVFlare calls the remote shell."""
        return [SysCommandTopic.SHELL]

    def process(self, req: Message, app_ctx: object) -> Message:
        """Check the words, then have NVFlare run them."""
        reason = self._objection(str(req.body))
        return _refuse(req, reason) if reason else self._stock.process(req, app_ctx)

    def _objection(self, line: str) -> str:
        try:
            words = shlex.split(line)
        except ValueError as error:
            return str(error)
        command = self._commands.get(words[0]) if words else None
        if command is None:
            return "not a command of the remote shell"
        wrong, parsed = command.validator.validate(words[1:]) if command.validator else ("", None)
        if reason := wrong or command.validate_shell_command(words, parsed):
            return str(reason)
        inside = [word for word in words[1:] if KEYS_FOLDER in word.split("/")]
        return f"{KEYS_FOLDER}/ holds the keys" if inside else ""


class RightsRefused:
    """Stands before NVFlare's dispatcher of commands, which refuses without a line in the site's audit log."""

    def __init__(self, dispatch: Callable[[Any], Any]) -> None:
        self._dispatch = dispatch

    def dispatch(self, request: Any) -> Any:
        """Run NVFlare's command, and audit a refusal."""
        reply = self._dispatch(request)
        if ReplyKeyword.NOT_AUTHORIZED in str(getattr(reply.payload, "body", "")):
            command = request.payload.get_header(RequestHeader.ADMIN_COMMAND, "")
            tell_refusal(request.payload.get_header(RequestHeader.USER_NAME, ""), command, "not authorized")
        return reply


def _refuse(req: Message, reason: str) -> Message:
    tell_refusal(req.get_header(RequestHeader.USER_NAME, ""), SysCommandTopic.SHELL, reason)
    return error_reply(reason)
