"""The bot: what a bot is, and one that works offline.

model.py has the bot whose answers come from a language model.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence

from .history import Message

BOT = "bot"
MENTION = re.compile(rf"@{BOT}[,:]?(?=\s|$)", re.IGNORECASE)

# A bot gets the conversation, whose last message is the question. It yields its answer
# part by part.
Reply = Callable[[Sequence[Message]], AsyncGenerator[str, None]]


class AnswerError(Exception):
    """An answer ended early. The message is the reason, a sentence for the room.

    `details` are for the log of the server only.
    """

    def __init__(self, reason: str, details: str = "") -> None:
        super().__init__(reason)
        self.details = details


def is_question(text: str) -> bool:
    """Return whether the message `text` is for the bot."""
    return MENTION.match(text) is not None


def question_of(text: str) -> str:
    """Return the message `text` without the mention of the bot at its beginning."""
    return MENTION.sub("", text, count=1).strip()


async def reply(conversation: Sequence[Message]) -> AsyncGenerator[str, None]:
    """Yield the words of the question in reverse order, without any network."""
    question = question_of(conversation[-1].text)
    for word in ["Backwards that is:", *reversed(question.split())]:
        await asyncio.sleep(0.2)  # thinking
        yield f"{word} "
