"""Calls -> bill lines -> bills, in memory."""
