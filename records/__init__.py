"""What is remembered: conversations, feedback and receipts, in one SQLite file."""

from records.store import Conversation, Feedback, Message, Receipt, Records, Spent

__all__ = ["Conversation", "Feedback", "Message", "Receipt", "Records", "Spent"]
