"""Joins the deciding machines with their neighbours in running daemons, with asyncio."""
