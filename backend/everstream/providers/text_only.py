"""What models that know text alone are not asked: to use tools, or to look at images."""

from __future__ import annotations

from everstream.core.events import ImagePart, Request
from everstream.providers.base import ProviderError


def check_text_only(request: Request, who: str) -> None:
    """Raises ProviderError `request.invalid`, in which the models are called `who`."""
    if request.params.tools:
        raise ProviderError("request.invalid", f"{who} know no tools")
    contents = (message.content for message in request.messages if not isinstance(message.content, str))
    if any(isinstance(part, ImagePart) for parts in contents for part in parts):
        raise ProviderError("request.invalid", f"{who} see no images")
