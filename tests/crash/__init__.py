"""A store under attack: killed, cut off from power, failed by its disk, damaged, shared."""
