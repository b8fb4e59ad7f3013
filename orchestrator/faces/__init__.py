"""What a daemon shows to others: its control socket, the lock, and how one is asked."""
