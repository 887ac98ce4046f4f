"""The straight path of a frame: classify, ingress, egress, deadlines."""
