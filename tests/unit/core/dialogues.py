"""What an endpoint orders in more than one story."""

FLIP_TO_LTE = ["protect lte", "probe", "release"]
OPTIMISTIC_MOVE = ["hold", "move lte", "only probes lte", "probe"]
