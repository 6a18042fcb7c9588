"""What an inference engine holds on each device, whether it starts, and how many requests it has room for."""
